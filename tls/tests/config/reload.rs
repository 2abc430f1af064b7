use std::fs;
use std::sync::Arc;
use std::time::Duration;

use perihelion_tls::{ClientTls, ServerTls};

use crate::common::{Folder, Pair, meet, message, self_signed};

const NAME: &str = "example.org";

struct World {
    folder: Folder,
    pair: Pair,
    server: ServerTls,
    client: ClientTls,
}

fn world() -> World {
    let folder = Folder::new();
    let pair = self_signed(&folder, "server", &[NAME]);
    let server = pair.server();
    let client = ClientTls::builder().danger_accept_any_certificate().without_resumption().build().unwrap();
    World { folder, pair, server, client }
}

impl World {
    fn successor(&self) -> Pair {
        self_signed(&self.folder, "successor", &[NAME])
    }

    fn shows(&self, pair: &Pair) -> bool {
        meet(&self.server, &self.client, NAME).unwrap().server_certificate() == pair.der
    }
}

#[test]
fn new_files_are_taken_at_a_reload_and_by_all_clones() {
    let world = world();
    let (clone, successor) = (world.server.clone(), world.successor());
    world.pair.replace(&successor);
    assert!(world.shows(&world.pair));
    clone.reload().unwrap();
    assert!(world.shows(&successor));
}

#[test]
fn an_open_connection_goes_on() {
    let world = world();
    let mut met = meet(&world.server, &world.client, NAME).unwrap();
    world.pair.replace(&world.successor());
    world.server.reload().unwrap();
    let mut sent = Vec::new();
    std::io::Write::write_all(&mut met.client.writer(), b"hello").unwrap();
    met.client.write_tls(&mut sent).unwrap();
    met.server.read_tls(&mut &sent[..]).unwrap();
    assert_eq!(met.server.process_new_packets().unwrap().plaintext_bytes_to_read(), 5);
}

#[test]
fn a_file_that_is_half_written_changes_nothing() {
    let world = world();
    let successor = world.successor();
    let before = world.server.config();
    for file in [&world.pair.chain, &world.pair.key] {
        let old = fs::read(file).unwrap();
        let new =
            fs::read(if *file == world.pair.chain { &successor.chain } else { &successor.key }).unwrap();
        for bytes in (0..=new.len()).step_by(9).chain([new.len()]) {
            fs::write(file, &new[..bytes]).unwrap();
            // Whole, it does not fit the other file.
            message(world.server.reload(), &[file]);
            assert!(Arc::ptr_eq(&world.server.config(), &before));
        }
        fs::write(file, old).unwrap();
    }
    world.server.reload().unwrap();
    assert!(!Arc::ptr_eq(&world.server.config(), &before));
    assert!(world.shows(&world.pair));
}

#[test]
fn a_change_is_seen_until_it_is_tried() {
    let world = world();
    assert!(!world.server.has_changed());
    world.pair.replace(&world.successor());
    assert!(world.server.has_changed());
    assert!(world.server.has_changed());
    world.server.reload().unwrap();
    assert!(!world.server.has_changed());
}

#[test]
fn a_broken_file_is_tried_once_for_each_change() {
    let world = world();
    let good = fs::read(&world.pair.key).unwrap();
    for broken in ["broken", "and broken otherwise"] {
        fs::write(&world.pair.key, broken).unwrap();
        assert!(world.server.has_changed());
        world.server.reload().unwrap_err();
        assert!(!world.server.has_changed());
    }
    fs::remove_file(&world.pair.key).unwrap();
    assert!(world.server.has_changed());
    world.server.reload().unwrap_err();
    assert!(!world.server.has_changed());
    fs::write(&world.pair.key, good).unwrap();
    assert!(world.server.has_changed());
    world.server.reload().unwrap();
    assert!(!world.server.has_changed());
}

#[test]
fn a_file_that_another_of_the_same_size_was_moved_over_has_changed() {
    let world = world();
    let copy = world.folder.write("copy", fs::read(&world.pair.chain).unwrap());
    fs::rename(copy, &world.pair.chain).unwrap();
    assert!(world.server.has_changed());
}

#[test]
fn a_file_that_was_written_over_with_as_many_bytes_has_changed() {
    let world = world();
    std::thread::sleep(Duration::from_millis(50)); // clocks of file systems are slow
    fs::write(&world.pair.chain, fs::read(&world.pair.chain).unwrap()).unwrap();
    assert!(world.server.has_changed());
}

#[test]
fn the_files_of_hosts_are_read_again_too() {
    let folder = Folder::new();
    let pair = self_signed(&folder, "server", &[NAME]);
    let own = self_signed(&folder, "own", &["own.test"]);
    let server = ServerTls::builder()
        .certificate(&pair.chain, &pair.key)
        .host("own.test", |host| host.certificate(&own.chain, &own.key))
        .build()
        .unwrap();
    let successor = self_signed(&folder, "successor", &["own.test"]);
    own.replace(&successor);
    assert!(server.has_changed());
    server.reload().unwrap();
    let client = ClientTls::builder().trust_certificate(&successor.chain).build().unwrap();
    meet(&server, &client, "own.test").unwrap();
}
