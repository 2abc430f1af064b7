//! Which CPUs workers run on.

use crate::config::RuntimeConfig;
use crate::{CpuList, Error};

/// One CPU for each worker.
///
/// Without a list these are the CPUs that the process may use, no more of them than its cgroup's quota allows.
pub(crate) fn place(config: &RuntimeConfig) -> Result<Vec<usize>, Error> {
    let allowed = allowed();
    let (usable, listed) = (usable(), config.cpus.as_slice());
    let cpus = if listed.is_empty() { &usable } else { listed };
    if let Some((worker, cpu)) = cpus.iter().enumerate().find(|(_, cpu)| !allowed.contains(cpu)) {
        let allowed = CpuList::from(allowed.clone()).to_string();
        return Err(Error::CpuNotAllowed { worker, cpu: *cpu, allowed });
    }
    let workers = if config.workers == 0 { cpus.len() } else { config.workers };
    if workers > cpus.len() {
        let what = if listed.is_empty() { "this process may use" } else { "runtime.cpus lists" };
        return Err(Error::InvalidValue {
            key: "runtime.workers",
            value: workers.to_string(),
            allowed: format!("{what} {} CPUs, and each worker needs one of its own", cpus.len()),
        });
    }
    Ok(cpus[..workers].to_vec())
}

/// The CPUs of the affinity mask, as many as the cgroup's quota allows.
pub(crate) fn usable() -> Vec<usize> {
    let mut cpus = allowed();
    cpus.truncate(std::thread::available_parallelism().map_or(cpus.len(), usize::from));
    cpus
}

/// The CPUs of this thread's affinity mask.
fn allowed() -> Vec<usize> {
    let mut cpus: Vec<usize> =
        core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|core| core.id).collect();
    cpus.sort_unstable();
    if cpus.is_empty() {
        cpus.push(0); // the mask can't be read: run, on one CPU
    }
    cpus
}

/// Pins this thread.
pub(crate) fn pin(worker: usize, cpu: usize) -> Result<(), Error> {
    if core_affinity::set_for_current(core_affinity::CoreId { id: cpu }) {
        return Ok(());
    }
    Err(Error::CpuNotAllowed { worker, cpu, allowed: CpuList::from(allowed()).to_string() })
}
