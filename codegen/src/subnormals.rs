//! Results below the least normal number, which are zero in a step.
//!
//! Intel's processors take longer for operations that make them, and training does: gradients of what is learnt already and
//! moments that decay by a constant factor pass through them on their way to zero. What the step is given is not touched:
//! operands that are subnormal count with their value.

/// Subnormal results of this thread are zero while this lives, on processors where they cost time: x86-64.
#[derive(Debug)]
pub(crate) struct FlushToZero {
    #[cfg(target_arch = "x86_64")]
    control_before: u32,
}

#[cfg(target_arch = "x86_64")]
mod control {
    use std::arch::asm;

    /// The bit of the control register by which results are flushed.
    pub(super) const FLUSH_TO_ZERO: u32 = 1 << 15;

    pub(super) fn read() -> u32 {
        let mut control = 0u32;
        // SAFETY: the register is stored in the variable.
        unsafe { asm!("stmxcsr [{}]", in(reg) &raw mut control, options(nostack, preserves_flags)) };
        control
    }

    /// # Safety
    /// The value was read from the register, but for [`FLUSH_TO_ZERO`].
    pub(super) unsafe fn write(control: u32) {
        // SAFETY: as the caller promises; nothing that rounds differently or traps is asked for.
        unsafe { asm!("ldmxcsr [{}]", in(reg) &raw const control, options(nostack, preserves_flags)) };
    }
}

#[cfg(target_arch = "x86_64")]
impl FlushToZero {
    pub fn new() -> FlushToZero {
        let control_before = control::read();
        // SAFETY: it has just been read.
        unsafe { control::write(control_before | control::FLUSH_TO_ZERO) };
        FlushToZero { control_before }
    }
}

#[cfg(target_arch = "x86_64")]
impl Drop for FlushToZero {
    fn drop(&mut self) {
        // SAFETY: it was read before.
        unsafe { control::write(self.control_before) };
    }
}

#[cfg(not(target_arch = "x86_64"))]
impl FlushToZero {
    pub fn new() -> FlushToZero {
        FlushToZero {}
    }
}
