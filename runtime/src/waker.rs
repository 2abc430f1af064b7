//! Wakers of endpoints: plain numbers in a pointer's place. Making, cloning and dropping one costs nothing.
//!
//! Rules for this module:
//!
//! 1. The data pointer is never dereferenced. It is `EndpointId::pack`, which fits, since pointers have 64 bits.
//! 2. So the functions of the table may be called from any thread, at any time, any number of times.

use std::ptr;
use std::task::{RawWaker, RawWakerVTable, Waker};

use crate::EndpointId;
use crate::local::Local;
use crate::mailbox::{self, Woken};

const _: () = assert!(size_of::<usize>() == 8, "an endpoint's waker needs a pointer of 64 bits");

static TABLE: RawWakerVTable = RawWakerVTable::new(clone, wake, wake, drop);

/// Wakes this endpoint of this worker, from any thread.
pub(crate) fn endpoint_waker(worker: u16, id: EndpointId) -> Waker {
    let data = ptr::without_provenance(id.pack(worker) as usize);
    // SAFETY: by rules 1 and 2 the table's functions keep the contract of `RawWaker` for any data that was made by
    // `EndpointId::pack`, and this was.
    unsafe { Waker::from_raw(RawWaker::new(data, &TABLE)) }
}

fn clone(data: *const ()) -> RawWaker {
    RawWaker::new(data, &TABLE)
}

fn wake(data: *const ()) {
    let (worker, id) = EndpointId::unpack(data.addr() as u64);
    let here = Local::try_with(|local| {
        let mine = local.worker == worker;
        if mine {
            local.wake_endpoint(id);
        }
        mine
    });
    if here != Some(true)
        && let Some(mailbox) = mailbox::find(worker)
    {
        // A worker that is gone has no endpoint to wake.
        let _ = mailbox.wake(Woken::Endpoint(id));
    }
}

fn drop(_data: *const ()) {}
