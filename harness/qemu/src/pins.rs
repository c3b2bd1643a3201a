//! Which of the controller's CPUs carry the virtual ones of a guest that measures time.

use std::sync::{Mutex, PoisonError};

use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// CPUs that virtual ones are pinned to.
#[derive(Debug)]
pub(crate) struct Pins {
    /// Those that this process may use, the last first: CPU 0 does most of the housekeeping.
    cpus: Vec<usize>,
    /// Why a guest was not pinned.
    trouble: Mutex<Option<String>>,
}

impl Pins {
    /// `None` where there is nothing to choose.
    pub(crate) fn new() -> Option<Self> {
        let allowed = sched_getaffinity(None).ok()?;
        let cpus = (0..CpuSet::MAX_CPU).filter(|&cpu| allowed.is_set(cpu)).collect();
        Self::of(cpus)
    }

    fn of(mut cpus: Vec<usize>) -> Option<Self> {
        if cpus.len() > 2 {
            cpus.retain(|&cpu| cpu != 0);
        }
        cpus.reverse();
        (cpus.len() > 1).then(|| Self { cpus, trouble: Mutex::default() })
    }

    /// Gives each thread, one for each virtual CPU, a CPU of its own.
    pub(crate) fn pin(&self, threads: &[i64]) {
        if let Err(why) = self.try_pin(threads) {
            self.fail(why);
        }
    }

    /// Takes note that a guest was not pinned.
    pub(crate) fn fail(&self, why: String) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
    }

    fn try_pin(&self, threads: &[i64]) -> Result<(), String> {
        if threads.len() > self.cpus.len() {
            let (guest, host) = (threads.len(), self.cpus.len());
            return Err(format!("{guest} CPUs of a guest can't have one of {host} each"));
        }
        for (&thread, &cpu) in threads.iter().zip(&self.cpus) {
            let thread = i32::try_from(thread).ok().filter(|id| *id > 0).and_then(Pid::from_raw);
            let mut one = CpuSet::new();
            one.set(cpu);
            sched_setaffinity(Some(thread.ok_or("QEMU names no thread")?), &one)
                .map_err(|error| format!("a thread can't be kept on CPU {cpu}: {error}"))?;
        }
        Ok(())
    }

    /// What a reader of the results needs to know.
    pub(crate) fn fact(&self) -> String {
        match &*self.trouble.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(why) => format!("not of all boots that measure time: {why}"),
            None => format!("boots that measure time, one CPU each from CPU {} down", self.cpus[0]),
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::thread::gettid;

    use super::*;

    #[test]
    fn the_last_cpus_come_first_and_the_first_one_only_where_there_are_two() {
        let cpus = |cpus: &[usize]| Pins::of(cpus.to_vec()).map(|pins| pins.cpus);
        assert_eq!(cpus(&[]), None);
        assert_eq!(cpus(&[0]), None);
        assert_eq!(cpus(&[0, 1]), Some(vec![1, 0]));
        assert_eq!(cpus(&[0, 1, 2, 3]), Some(vec![3, 2, 1]));
        assert_eq!(cpus(&[2, 5, 6]), Some(vec![6, 5, 2]));
    }

    #[test]
    fn a_thread_stays_where_it_was_put() {
        let Some(pins) = Pins::new() else {
            println!("SKIP: one CPU only");
            return;
        };
        let last = pins.cpus[0];
        // A thread of its own, so that no other test is kept there.
        let kept = std::thread::spawn(move || {
            pins.pin(&[i64::from(gettid().as_raw_nonzero().get())]);
            (pins, sched_getaffinity(None).unwrap())
        });
        let (pins, set) = kept.join().unwrap();
        assert_eq!((set.count(), set.is_set(last)), (1, true));
        assert_eq!(
            pins.fact(),
            format!("boots that measure time, one CPU each from CPU {last} down")
        );
    }

    #[test]
    fn what_can_not_be_pinned_is_told() {
        let pins = Pins::of(vec![0, 1]).unwrap();
        pins.pin(&[1, 2, 3]);
        insta::assert_snapshot!(pins.fact(), @"not of all boots that measure time: 3 CPUs of a guest can't have one of 2 each");
        let pins = Pins::of(vec![0, 1]).unwrap();
        pins.pin(&[-7]);
        insta::assert_snapshot!(pins.fact(), @"not of all boots that measure time: QEMU names no thread");
        let pins = Pins::of(vec![0, CpuSet::MAX_CPU - 1]).unwrap();
        pins.pin(&[i64::from(gettid().as_raw_nonzero().get())]);
        insta::assert_snapshot!(pins.fact(), @"not of all boots that measure time: a thread can't be kept on CPU 1023: Invalid argument (os error 22)");
    }
}
