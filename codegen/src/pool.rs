//! Threads that share the work of a step.
//!
//! A team of threads waits for the chunks of one kernel after the other. Handing over a kernel costs a fraction of a
//! microsecond: what is to be done stands in a few shared words, chunks are claimed by one atomic operation each, and
//! threads spin while a step runs. Between steps they sleep.

use crate::runtime::{KernelFn, StepContext};
use crate::subnormals::FlushToZero;
use gradc_ir::diagnostic::Diagnostic;
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::*};
use std::sync::{Arc, Mutex, OnceLock, TryLockError};
use std::thread::{JoinHandle, Thread};

/// Rounds of waiting after which a thread lets others run.
const SPINS_BEFORE_YIELD: usize = 1 << 12;

/// Rounds of waiting between steps after which a thread sleeps, about 50 µs.
const SPINS_BEFORE_SLEEP: usize = 1 << 11;

thread_local! {
    /// Position of this thread in its team; whoever calls a step is the first.
    static POSITION: Cell<usize> = const { Cell::new(0) };
}

/// Position of the calling thread among those that share a step.
pub(crate) fn position_of_thread() -> usize {
    POSITION.get()
}

/// A handle of the threads a step runs on; cheap to clone, shared between sessions.
///
/// How work is cut never depends on it, so results are the same bits for any number of threads. Sessions that step at
/// the same time do not wait for each other: one has the team, the others run on their own thread.
#[derive(Clone, Debug, Default)]
pub struct Pool {
    team: Option<Arc<Team>>,
}

impl Pool {
    /// `threads` threads, the one that calls a step among them; with one, work stays on the calling thread.
    pub fn new(threads: usize) -> Result<Pool, Diagnostic> {
        if threads <= 1 {
            return Ok(Pool::default());
        }
        let team = Team::new(threads);
        let team = team.map_err(|e| Diagnostic::new("thread-pool", format!("cannot start {threads} threads: {e}")))?;
        Ok(Pool { team: Some(Arc::new(team)) })
    }

    /// Number of threads.
    pub fn threads(&self) -> usize {
        self.team.as_ref().map_or(1, |team| team.workers.len() + 1)
    }

    /// Runs `work` with the board the team works from, unless there is no team or another step has it.
    pub(crate) fn run<R>(&self, work: impl FnOnce(Option<&Board>) -> R) -> R {
        let Some(team) = &self.team else { return work(None) };
        let _turn = match team.turn.try_lock() {
            Ok(turn) => turn,
            Err(TryLockError::Poisoned(turn)) => turn.into_inner(),
            Err(TryLockError::WouldBlock) => return work(None),
        };
        team.board.running.store(true, Relaxed);
        let result = work(Some(&team.board));
        team.board.running.store(false, Relaxed);
        result
    }
}

#[derive(Debug)]
struct Team {
    board: Arc<Board>,
    workers: Vec<JoinHandle<()>>,
    /// Held by the step that the team works for.
    turn: Mutex<()>,
}

impl Team {
    fn new(threads: usize) -> std::io::Result<Team> {
        let board = Arc::new(Board::new(threads - 1));
        let mut team = Team { board: board.clone(), workers: vec![], turn: Mutex::new(()) };
        for position in 1..threads {
            let board = board.clone();
            let builder = std::thread::Builder::new().name(format!("gradc-{position}"));
            team.workers.push(builder.spawn(move || board.work(position))?);
        }
        let threads = team.workers.iter().map(|w| w.thread().clone()).collect();
        _ = board.threads.set(threads);
        Ok(team)
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.board.closed.store(true, SeqCst);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            // Workers run kernels, which do not panic; were one to, the step it worked for has failed already.
            _ = worker.join();
        }
    }
}

/// What the team is to do.
#[derive(Debug)]
pub(crate) struct Board {
    /// Which chunks of the present kernel are unclaimed, see [`Ticket`].
    ticket: AtomicU64,
    /// Address of the kernel, of its context, of its arguments. Only whoever claims a chunk relies on them: the claim
    /// fails if they have changed since they were read.
    kernel: AtomicUsize,
    context: AtomicUsize,
    arguments: AtomicUsize,
    /// Chunks of the present kernel that have been computed.
    done: AtomicUsize,
    /// Whether a step is running.
    running: AtomicBool,
    /// Whether threads should end.
    closed: AtomicBool,
    /// Which threads sleep.
    asleep: Vec<AtomicBool>,
    threads: OnceLock<Vec<Thread>>,
}

/// Chunks `front..back` of a kernel are unclaimed; the number of the kernel tells it from the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ticket {
    number: u32,
    front: u16,
    back: u16,
}

impl Ticket {
    fn from_bits(bits: u64) -> Ticket {
        Ticket { number: (bits >> 32) as u32, front: (bits >> 16) as u16, back: bits as u16 }
    }

    fn bits(self) -> u64 {
        u64::from(self.number) << 32 | u64::from(self.front) << 16 | u64::from(self.back)
    }

    /// The chunk the thread with this position should take, and what is left then.
    ///
    /// Threads work from both ends, so that the same thread tends to meet the same rows in each kernel.
    fn claim(self, position: usize) -> Option<(usize, Ticket)> {
        match position % 2 {
            _ if self.front >= self.back => None,
            0 => Some((self.front.into(), Ticket { front: self.front + 1, ..self })),
            _ => Some((usize::from(self.back) - 1, Ticket { back: self.back - 1, ..self })),
        }
    }
}

impl Board {
    fn new(workers: usize) -> Board {
        Board {
            ticket: AtomicU64::new(0),
            kernel: AtomicUsize::new(0),
            context: AtomicUsize::new(0),
            arguments: AtomicUsize::new(0),
            done: AtomicUsize::new(0),
            running: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            asleep: (0..workers).map(|_| AtomicBool::new(false)).collect(),
            threads: OnceLock::new(),
        }
    }

    /// Number of threads, the one that leads among them.
    pub fn threads(&self) -> usize {
        self.asleep.len() + 1
    }

    /// Runs all chunks of a kernel, the team helping, and returns when all are done.
    ///
    /// # Safety
    /// The kernel may be called with the context and the arguments for each of the chunks, at the same time; the
    /// caller is the only one that leads on this board.
    pub unsafe fn lead(&self, kernel: KernelFn, context: *const StepContext, arguments: *const *mut u8, chunks: u16) {
        self.kernel.store(kernel as usize, Relaxed);
        self.context.store(context as usize, Relaxed);
        self.arguments.store(arguments as usize, Relaxed);
        self.done.store(0, Relaxed);
        let number = Ticket::from_bits(self.ticket.load(Relaxed)).number.wrapping_add(1);
        self.ticket.store(Ticket { number, front: 0, back: chunks }.bits(), SeqCst);
        self.wake();
        self.take_part(0);
        let mut spins = 0;
        while self.done.load(Acquire) < usize::from(chunks) {
            wait(&mut spins);
        }
    }

    /// Claims and computes chunks until none are left; whether there was any.
    fn take_part(&self, position: usize) -> bool {
        let mut any = false;
        loop {
            let seen = self.ticket.load(Acquire);
            let Some((chunk, left)) = Ticket::from_bits(seen).claim(position) else { return any };
            let addresses = [&self.kernel, &self.context, &self.arguments].map(|a| a.load(Relaxed));
            if self.ticket.compare_exchange_weak(seen, left.bits(), AcqRel, Relaxed).is_ok() {
                // SAFETY: the claim succeeded, so the addresses are those of the kernel the chunk belongs to, and
                // `lead`, whose caller vouches for them, does not return before the chunk is done.
                unsafe {
                    let kernel: KernelFn = std::mem::transmute(addresses[0]);
                    kernel(addresses[1] as *const StepContext, addresses[2] as *const *mut u8, chunk);
                }
                self.done.fetch_add(1, Release);
                any = true;
            }
        }
    }

    fn wake(&self) {
        let Some(threads) = self.threads.get() else { return };
        for (asleep, thread) in self.asleep.iter().zip(threads) {
            if asleep.load(SeqCst) && asleep.swap(false, SeqCst) {
                thread.unpark();
            }
        }
    }

    /// The life of the thread with this position.
    fn work(&self, position: usize) {
        POSITION.set(position);
        let _flushing = FlushToZero::new();
        let mut spins = 0;
        while !self.closed.load(SeqCst) {
            if self.take_part(position) {
                spins = 0;
            } else if self.running.load(Relaxed) || spins < SPINS_BEFORE_SLEEP {
                wait(&mut spins);
            } else {
                self.sleep(position);
                spins = 0;
            }
        }
    }

    /// Sleeps until there is something to do, or for no reason.
    fn sleep(&self, position: usize) {
        let asleep = &self.asleep[position - 1];
        asleep.store(true, SeqCst);
        // Whoever leads writes the ticket and then looks who sleeps; so one of the two sees the other.
        let idle = Ticket::from_bits(self.ticket.load(SeqCst)).claim(position).is_none();
        if idle && !self.closed.load(SeqCst) {
            std::thread::park();
        }
        asleep.store(false, SeqCst);
    }
}

fn wait(spins: &mut usize) {
    *spins += 1;
    if spins.is_multiple_of(SPINS_BEFORE_YIELD) { std::thread::yield_now() } else { std::hint::spin_loop() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Adds the chunk's number plus 1 to the counter behind the arguments.
    unsafe extern "C" fn count(_: *const StepContext, arguments: *const *mut u8, chunk: usize) {
        // SAFETY: the test passes the address of a counter.
        unsafe { (*arguments.cast::<AtomicUsize>()).fetch_add(chunk + 1, Relaxed) };
    }

    #[test]
    fn every_chunk_is_computed_once_whoever_sleeps() {
        let pool = Pool::new(3).expect("threads start");
        for round in 0..2000 {
            if round % 500 == 0 {
                std::thread::sleep(std::time::Duration::from_millis(2));
            }
            let counter = AtomicUsize::new(0);
            let chunks = 1 + round % 7;
            pool.run(|board| {
                let board = board.expect("nobody else has the team");
                // SAFETY: the kernel takes any context and the address of a counter.
                unsafe { board.lead(count, std::ptr::null(), std::ptr::from_ref(&counter).cast(), chunks as u16) };
            });
            assert_eq!(counter.into_inner(), chunks * (chunks + 1) / 2);
        }
    }

    #[test]
    fn a_second_step_runs_alone() {
        let pool = Pool::new(2).expect("threads start");
        assert_eq!(pool.threads(), 2);
        let both = pool.run(|first| (first.is_some(), pool.run(|second| second.is_some())));
        assert_eq!(both, (true, false));
    }
}
