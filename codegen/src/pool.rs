//! Threads that share the work of a step.

use gradc_ir::diagnostic::Diagnostic;
use rayon::ThreadPool;
use std::sync::Arc;

/// A handle of the threads a step runs on; cheap to clone, shared between sessions.
///
/// How work is cut never depends on it, so results are the same bits for any number of threads.
#[derive(Clone, Debug, Default)]
pub struct Pool {
    threads: Option<Arc<ThreadPool>>,
}

impl Pool {
    /// `threads` threads of gradc's own; with one, work stays on the calling thread.
    pub fn new(threads: usize) -> Result<Pool, Diagnostic> {
        if threads <= 1 {
            return Ok(Pool::default());
        }
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).thread_name(|k| format!("gradc-{k}")).build();
        let pool = pool.map_err(|e| Diagnostic::new("thread-pool", format!("cannot start {threads} threads: {e}")))?;
        Ok(Pool::shared(Arc::new(pool)))
    }

    /// The host's own threads.
    pub fn shared(pool: Arc<ThreadPool>) -> Pool {
        Pool { threads: Some(pool) }
    }

    /// Number of threads.
    pub fn threads(&self) -> usize {
        self.threads.as_ref().map_or(1, |p| p.current_num_threads())
    }

    /// Runs `work` inside the pool, so that what it forks is not handed over from outside.
    pub(crate) fn run<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        match &self.threads {
            Some(pool) => pool.install(work),
            None => work(),
        }
    }
}

/// Calls `work` for every number in `from..to`, in halves that idle threads may take.
pub(crate) fn fork(from: usize, to: usize, work: &(impl Fn(usize) + Sync)) {
    if to - from <= 1 {
        (from..to).for_each(work);
        return;
    }
    let middle = from + (to - from) / 2;
    rayon::join(|| fork(from, middle, work), || fork(middle, to, work));
}
