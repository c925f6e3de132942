//! The Cranelift view of a [`Target`].

use crate::microkernel::is_available;
use cranelift_codegen::isa::{self, OwnedTargetIsa};
use cranelift_codegen::settings::{self, Configurable, SetError};
use gradc_ir::diagnostic::Diagnostic;
use gradc_ir::target::{Target, VectorIsa};
use target_lexicon::{Architecture, Triple};

/// This machine: [`Target::host`], and tiles where the system lends their registers, which are asked for here.
pub fn host_target() -> Target {
    if is_available(VectorIsa::Amx) { Target::of(VectorIsa::Amx) } else { Target::host() }
}

/// The instruction set kernels are compiled for.
///
/// `opt_level=none` keeps the emitter's own instruction order: Cranelift's optimizer moves all loads to the front
/// of a block and spills.
pub(crate) fn target_isa(target: &Target, verify: bool) -> Result<OwnedTargetIsa, Diagnostic> {
    if !is_available(target.vector_isa) {
        let message = "this processor lacks the vector instructions of the target";
        return Err(Diagnostic::new("unsupported-target", message).expected(format!("{:?}", target.vector_isa)));
    }
    build(target, verify).map_err(|message| Diagnostic::new("unsupported-target", message))
}

fn build(target: &Target, verify: bool) -> Result<OwnedTargetIsa, String> {
    let flags = shared_flags(verify).map_err(|e| e.to_string())?;
    let triple = Triple::host();
    let mut builder = isa::lookup(triple.clone()).map_err(|e| e.to_string())?;
    if triple.architecture == Architecture::X86_64 {
        builder.enable(x86_level(target.vector_isa)).map_err(|e| e.to_string())?;
        if has_fused_multiply_add(target) {
            // Cranelift's preset of this level forgets AVX itself, and then uses none of what builds on it.
            builder.enable("has_avx").map_err(|e| e.to_string())?;
        }
    }
    let isa = builder.finish(flags).map_err(|e| e.to_string())?;
    let has = |name: &str| isa.isa_flags().iter().any(|f| f.name == name && f.as_bool() == Some(true));
    // Without either flag one fused multiply-add becomes four library calls, silently.
    let fused = has("has_fma") && has("has_avx");
    assert!(fused || !has_fused_multiply_add(target), "an AVX2 target has fused multiply-add");
    Ok(isa)
}

fn shared_flags(verify: bool) -> Result<settings::Flags, SetError> {
    let mut flags = settings::builder();
    flags.set("opt_level", "none")?;
    flags.set("is_pic", "false")?;
    flags.set("enable_probestack", "false")?;
    flags.set("enable_verifier", if verify { "true" } else { "false" })?;
    Ok(settings::Flags::new(flags))
}

/// The x86-64 level: what is called portable still needs SSE4.2, as every x86-64 processor since 2009 has.
fn x86_level(isa: VectorIsa) -> &'static str {
    match isa {
        VectorIsa::Portable => "x86-64-v2",
        VectorIsa::Avx2 | VectorIsa::Avx512 | VectorIsa::Amx => "x86-64-v3",
    }
}

/// Whether polynomials may use fused multiply-add.
pub(crate) fn has_fused_multiply_add(target: &Target) -> bool {
    cfg!(target_arch = "x86_64") && target.vector_isa != VectorIsa::Portable
}
