//! What parameters are worth, measured.

use crate::entries::EntryKind;
use crate::error::SessionError;
use crate::session::Session;
use crate::view::TensorView;
use gradc_ir::diagnostic::Diagnostic;
use gradc_passes::train::IMPORTANCE;
use std::collections::BTreeMap;

/// What parameters are worth, by name, in units that only compare.
pub type Importances = BTreeMap<String, f64>;

/// Adds what updates are worth on a batch, by a session of a step compiled with
/// [`Options::importances`](crate::Options).
pub(super) fn add_importances(
    sums: &mut Importances,
    session: &mut Session,
    batch: &[(&str, TensorView)],
) -> Result<(), SessionError> {
    let outputs = session.call(EntryKind::Step, batch)?;
    for (parameter, value) in outputs.iter().filter_map(|(name, v)| Some((name.strip_prefix(IMPORTANCE)?, v))) {
        let value = value.to_host().to_tensor().floats()[0];
        if !value.is_finite() {
            let message = format!("what the update of `{parameter}` is worth is not finite");
            return Err(SessionError::Input(Diagnostic::new("non-finite-importance", message).found(value)));
        }
        *sums.entry(parameter.to_string()).or_default() += value;
    }
    Ok(())
}
