//! A server that nobody talks to before they have logged in: its authentication handler stands in a slot, and takes
//! itself out of the pipeline when it has done its work. From then on a message costs nothing for it. Who has logged in is
//! a feature of the connection, which everything above reads.
//!
//! ```text
//! cargo run --example auth -- --listen 127.0.0.1:7000 --user ada:lovelace
//! printf 'login ada lovelace\nhello\n' | nc -N 127.0.0.1 7000
//! ```
//!
//! Lines of text that end with a line feed, both ways. The first is `login NAME PASSWORD`; the answer is `welcome NAME`
//! or `denied`, and after three denials the connection is closed. What comes behind the login, even in the same
//! segment, is for the application, which answers each line with `NAME: LINE`.

mod shared;

use clap::Parser;
use perihelion::prelude::*;
use shared::ServerArguments;
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

/// Answers lines, but only to those who have logged in. Stops in order on SIGINT and SIGTERM.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    server: ServerArguments,
    /// Who may log in: NAME:PASSWORD. Can be given several times.
    #[arg(long = "user", required = true, value_parser = user)]
    users: Vec<(String, String)>,
}

const LINE_BYTES_MAX: usize = 4096;
const ATTEMPTS_MAX: u32 = 3;
/// A look-up takes a while, as one in a database does; other connections go on.
const LOOK_UP: Duration = Duration::from_millis(20);

type Users = Arc<HashMap<String, String>>;

/// Who has logged in: a feature of the connection.
struct User {
    name: String,
}

/// Lets nothing pass before the login.
struct Authentication {
    users: Users,
    slot: SlotKey<String>,
    denials: u32,
    /// The look-up that is being waited for. It ends with the channel.
    look_up: Option<LookUp>,
}

type LookUp = Pin<Box<dyn Future<Output = Option<User>>>>;

impl Handler for Authentication {
    type In = String;
    type Next = String;
    type Write = String;
    type Out = String;

    fn read(&mut self, cx: &mut Context<'_, String>, line: String) -> Result<Flow<String>> {
        self.look_up = Some(Box::pin(look_up(Arc::clone(&self.users), line)));
        self.more(cx)
    }

    /// Asked again whenever the channel is woken, and then the look-up may be done.
    fn more(&mut self, cx: &mut Context<'_, String>) -> Result<Flow<String>> {
        match cx.poll(&mut self.look_up) {
            None => Ok(Flow::Wait), // what comes behind it waits too, and keeps its order
            Some(Some(user)) => {
                cx.write(format!("welcome {}", user.name))?;
                cx.insert(user);
                self.slot.remove()?;
                Ok(Flow::Done)
            }
            Some(None) => {
                self.denials += 1;
                cx.write("denied".into())?;
                if self.denials == ATTEMPTS_MAX {
                    cx.close()?;
                }
                Ok(Flow::Done)
            }
        }
    }

    fn write(&mut self, cx: &mut Context<'_, String>, line: String) -> Result<()> {
        cx.write(line)
    }
}

async fn look_up(users: Users, line: String) -> Option<User> {
    sleep(LOOK_UP).await;
    let mut words = line.split(' ');
    let (Some("login"), Some(name), Some(password)) = (words.next(), words.next(), words.next()) else {
        return None;
    };
    (users.get(name)? == password).then(|| User { name: name.into() })
}

/// The application. It never sees a line of a stranger.
struct Answers;

impl Tail for Answers {
    type In = String;
    type Out = String;

    fn read(&mut self, cx: &mut Context<'_, String>, line: String) -> Result<()> {
        let user = cx.get::<User>().ok_or_else(|| Error::msg("a line of nobody who has logged in"))?;
        cx.write(format!("{}: {line}", user.name))
    }
}

/// The stages of one connection.
fn pipeline(users: &Users) -> impl Pipeline<In = Bytes, Out = Bytes> + use<> {
    let slot = SlotKey::new();
    let authentication =
        Authentication { users: Arc::clone(users), slot: slot.clone(), denials: 0, look_up: None };
    codec(Lines::lf(LINE_BYTES_MAX)).slot(&slot, authentication).tail(Answers)
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let users: Users = Arc::new(arguments.users.iter().cloned().collect());
    let server = Server::bind(&arguments.server.listen).pipeline(move |_conn| pipeline(&users));
    arguments.server.serve(|runtime| Ok(server.start(runtime)?))
}

fn user(text: &str) -> Result<(String, String), String> {
    let (name, password) = text.split_once(':').ok_or("it is NAME:PASSWORD")?;
    Ok((name.into(), password.into()))
}

/// How to test handlers: the real channel, without a socket and in virtual time.
#[cfg(test)]
mod tests {
    use super::*;
    use perihelion::testing::{Ending, Faults, TestChannel, each_seed};

    fn open(seed: u64) -> TestChannel {
        let users = [("ada", "lovelace"), ("alan", "turing")].map(|(a, b)| (a.into(), b.into()));
        TestChannel::with_faults(seed, Faults::survivable(), pipeline(&Arc::new(users.into())))
    }

    #[test]
    fn nothing_behind_the_login_is_lost_however_it_comes() {
        each_seed(0..200, |seed| {
            let mut channel = open(seed);
            channel.send("login ada lovelace\nhello\nbye\n");
            channel.advance(LOOK_UP * 2);
            assert_eq!(channel.received(), b"welcome ada\nada: hello\nada: bye\n");
        });
    }

    #[test]
    fn three_denials_close_whatever_follows() {
        let mut channel = open(1);
        channel.send("login\nlogin eve\nlogin ada turing\nlogin ada lovelace\n");
        channel.advance(LOOK_UP * 10);
        assert_eq!(channel.received(), b"denied\ndenied\ndenied\n");
        assert_eq!(channel.peer_sees(), Ending::Ended);
    }
}
