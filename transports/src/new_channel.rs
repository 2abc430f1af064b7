//! A channel that is about to be opened.

use perihelion_pipeline::Runner;
use perihelion_runtime::defer;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use crate::admission::Place;
use crate::channel::Channel;
use crate::function::Function;
use crate::group::Group;
use crate::watch::Watch;

/// A pipeline for a connection, who wants to know of its channel's end, and the function that it belongs to.
pub(crate) struct NewChannel {
    pub(crate) runner: Runner,
    pub(crate) watch: Option<Rc<Watch>>,
    pub(crate) function: Option<Function>,
}

impl NewChannel {
    /// The connection belongs to this asynchronous function.
    pub(crate) fn run_by(mut self, function: impl Future<Output = ()> + 'static) -> Self {
        self.function = Some(Function::new(function));
        self
    }

    /// Opens the channel on this worker, when what runs now has returned.
    pub(crate) fn open(self, fd: OwnedFd, group: Rc<Group>, place: Place) {
        let unopened = self.watch.clone();
        defer(move |io| {
            let opened = io.open(fd, |io, id| Channel::new(io, id, self, group, place));
            if opened.is_err()
                && let Some(watch) = unopened
            {
                watch.closed(io.now(), Some("the worker can't hold more connections".into()));
            }
        });
    }
}
