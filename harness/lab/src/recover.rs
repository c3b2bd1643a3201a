//! The way back for a host that was left: by its journal, or by what the host itself says.

use std::rc::Rc;

use kgate_model::inventory::LabHost;

use crate::journal::Step;
use crate::stage;
use crate::steps;
use crate::walk::{Errand, Known, Resolve, Walk, WalkError};

/// What was done for a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recovered {
    /// Nothing was left, and it is on production.
    Nothing,
    /// It is on production, and this was undone.
    Back(Vec<Step>),
}

/// Brings a host back to verified production and undoes what an earlier walk left. With `steal` also one
/// that another controller has reserved, or that doesn't answer and has no journal here, by which it is
/// known to be nobody's.
///
/// # Errors
/// See [`WalkError`]; what is left then is still in the journal.
pub async fn recover(
    host: &LabHost,
    errand: &Rc<Errand>,
    steal: bool,
) -> Result<Recovered, WalkError> {
    let mut walk = Walk::open(host, errand).await?;
    walk.steal = steal;
    if let Some((ssh, _)) = walk.glance().await {
        walk.still_ours(&ssh).await?;
    } else if !walk.left().anything() && !steal {
        return Err(WalkError::Stranded(
            "it does not answer, and no journal here says that it was left; use --steal to reset it".into(),
        ));
    }
    if walk.left().anything() {
        let steps = walk.left().steps();
        walk.settle(Resolve::All).await?;
        return Ok(Recovered::Back(steps));
    }
    let back = walk.bring_back(Known::Nothing).await?;
    let ssh = walk.on_production()?;
    // Another controller's journal may have been lost, too.
    stage::unstage(&ssh, host).await?;
    steps::remove(&ssh, host).await?;
    Ok(if back.by.is_empty() && back.armed.is_none() {
        Recovered::Nothing
    } else {
        Recovered::Back(vec![Step::Return])
    })
}
