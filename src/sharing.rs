//! Whether the calls of a session are shared with the threads of its pool: as long as they take less time so.
//!
//! They take more where other programs use the processors, where these are so far from each other that fetching what
//! another has made takes longer than making it, or where kernels are small. Results have the same bits either way.

use std::time::Duration;

/// Calls in one way, the shortest of which stands for it.
const COMPARED: usize = 4;

/// Calls before the first trial of the other way.
const BEFORE_FIRST_TRIAL: usize = 16;

/// Calls from one trial to the next, for each thread: what trials lose stays below a sixtieth, for a call takes one thread
/// at most as many times as long as there are threads.
const BETWEEN_TRIALS: usize = 256;

/// Calls from a change to the trial of what was before: a change that came of what else the processors did for a moment does
/// not last.
const BEFORE_CONFIRMING: usize = 64;

/// Share of its duration by which the other way has to be shorter.
const WORTH_CHANGING: f64 = 0.02;

/// How much longer than usual a call of a trial may take for the trial to go on, as a factor and in all: threads that slept
/// have to wake up.
const HOPELESS: (f64, Duration) = (1.5, Duration::from_millis(1));

/// The durations of the last calls in one way.
#[derive(Clone, Copy, Debug, Default)]
struct Durations {
    last: [Duration; COMPARED],
    calls: usize,
}

impl Durations {
    fn push(&mut self, duration: Duration) {
        self.last[self.calls % COMPARED] = duration;
        self.calls += 1;
    }

    fn shortest(&self) -> Duration {
        self.last[..self.calls.min(COMPARED)].iter().copied().min().unwrap_or(Duration::MAX)
    }
}

/// Decides for the calls of one entry, one after the other.
#[derive(Clone, Debug)]
pub(crate) struct Sharing {
    threads: usize,
    /// Whether calls are shared, those of trials apart.
    shares: bool,
    usual: Durations,
    /// Calls in the other way, while it is tried.
    trial: Option<Durations>,
    /// Calls until the next trial.
    left: usize,
}

impl Sharing {
    /// For a pool of so many threads; with one there is nothing to decide.
    pub fn new(threads: usize) -> Sharing {
        Sharing { threads, shares: true, usual: Durations::default(), trial: None, left: BEFORE_FIRST_TRIAL }
    }

    /// Whether calls are shared as a rule.
    pub fn shares(&self) -> bool {
        self.shares
    }

    /// Whether the next call is to be shared.
    pub fn shares_next(&self) -> bool {
        self.shares != self.trial.is_some()
    }

    /// Whether it matters how long calls take.
    pub fn is_timed(&self) -> bool {
        self.threads > 1
    }

    /// Takes note of how long that call took.
    pub fn took(&mut self, duration: Duration) {
        if !self.is_timed() {
            return;
        }
        if let Some(trial) = &mut self.trial {
            trial.push(duration);
            let (factor, more) = HOPELESS;
            let usual = self.usual.shortest();
            let hopeless = duration > usual.mul_f64(factor) && duration > usual + more;
            if hopeless || trial.calls == COMPARED {
                self.end_trial();
            }
            return;
        }
        self.usual.push(duration);
        self.left -= 1;
        if self.left == 0 {
            self.trial = Some(Durations::default());
        }
    }

    fn end_trial(&mut self) {
        let trial = self.trial.take().expect("a trial ends once");
        self.left = BETWEEN_TRIALS * self.threads;
        if trial.calls == COMPARED && trial.shortest() < self.usual.shortest().mul_f64(1.0 - WORTH_CHANGING) {
            self.shares = !self.shares;
            self.usual = trial;
            self.left = BEFORE_CONFIRMING;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Calls that take so many µs shared and alone; how many of them were shared.
    fn shared_of(sharing: &mut Sharing, calls: usize, [shared, alone]: [u64; 2]) -> usize {
        let one = |_| {
            let shares = sharing.shares_next();
            sharing.took(Duration::from_micros(if shares { shared } else { alone }));
            usize::from(shares)
        };
        (0..calls).map(one).sum()
    }

    #[test]
    fn calls_are_made_in_the_shorter_way() {
        let mut sharing = Sharing::new(2);
        assert_eq!(shared_of(&mut sharing, 16, [100, 80]), 16, "the first are shared");
        assert_eq!(
            shared_of(&mut sharing, 400, [100, 80]),
            COMPARED,
            "one thread alone is faster, which is confirmed once"
        );
        assert!(!sharing.shares());
        // Processors come nearer: the next trial finds it.
        shared_of(&mut sharing, 600, [50, 80]);
        assert!(sharing.shares());
        assert!(shared_of(&mut sharing, 10_000, [50, 80]) > 9_900, "trials are rare");
    }

    #[test]
    fn a_change_for_a_moment_is_taken_back() {
        let mut sharing = Sharing::new(2);
        shared_of(&mut sharing, 12, [50, 80]);
        shared_of(&mut sharing, 8, [100, 80]);
        assert!(!sharing.shares(), "the last calls were slower shared");
        shared_of(&mut sharing, BEFORE_CONFIRMING + COMPARED, [50, 80]);
        assert!(sharing.shares());
    }

    #[test]
    fn a_difference_that_may_be_noise_changes_nothing() {
        let mut sharing = Sharing::new(4);
        shared_of(&mut sharing, 100, [100, 99]);
        assert!(sharing.shares());
    }

    #[test]
    fn a_hopeless_trial_is_one_call() {
        let mut sharing = Sharing::new(2);
        assert_eq!(shared_of(&mut sharing, 100, [20_000, 40_000]), 99);
        // Short calls wait for threads to wake; they get their four.
        let mut sharing = Sharing::new(2);
        assert_eq!(shared_of(&mut sharing, 100, [20, 400]), 96);
    }

    #[test]
    fn one_thread_tries_nothing() {
        let mut sharing = Sharing::new(1);
        assert_eq!(shared_of(&mut sharing, 5_000, [100, 1]), 5_000);
    }
}
