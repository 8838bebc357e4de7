//! The classes of the data against the spec and against each other.

use mae_data::Dataset;

use crate::error::{Error, Result};
use crate::report::progress::Progress;
use crate::spec::{Origin, Plan};

/// Checks that the model can tell the data's classes apart: never fewer outputs than classes, and as many where
/// `model.num_classes` was set.
pub(super) fn fit_the_model(plan: &Plan, key: &str, dataset: &Dataset, progress: &Progress) -> Result<()> {
    let (outputs, classes) = (plan.model.num_classes, dataset.classes());
    let set = plan.is_set("model.num_classes");
    if classes.len() == outputs {
        return Ok(());
    }
    if classes.len() < outputs && !set {
        let (count, data) = (classes.len(), format!("{key} has {} classes", classes.len()));
        progress.say(&match plan.origin("model.num_classes") {
            Origin::Checkpoint { .. } => {
                format!("note: the checkpoint's model has {outputs} outputs, and {data}")
            }
            _ => format!(
                "note: model.num_classes is unset, so the model has TAO's {outputs} outputs, but {data}; \
                 model.num_classes={count} fits them"
            ),
        });
        return Ok(());
    }
    Err(Error::Classes {
        problem: format!(
            "model.num_classes = {outputs} ({}), but {key} = {} has {} classes: {}",
            plan.origin("model.num_classes"),
            dataset.source(),
            classes.len(),
            listed(classes)
        ),
        help: format!("set model.num_classes={}, or point {key} at the data that was meant", classes.len()),
    })
}

/// Checks that two sets number their classes alike.
pub(super) fn agree(trained: &[String], key: &str, dataset: &Dataset) -> Result<()> {
    if trained.is_empty() || dataset.classes() == trained {
        return Ok(());
    }
    let missing: Vec<_> =
        trained.iter().filter(|class| !dataset.classes().contains(class)).cloned().collect();
    let unknown: Vec<_> =
        dataset.classes().iter().filter(|class| !trained.contains(class)).cloned().collect();
    Err(Error::Classes {
        problem: format!(
            "the class folders of {key} = {} are not those that the model was trained on ({} missing: {}; {} unknown: {}), \
             so its labels would mean other classes",
            dataset.source(),
            missing.len(),
            listed(&missing),
            unknown.len(),
            listed(&unknown)
        ),
        help: "give every set the same class folders, with at least one image in each".into(),
    })
}

fn listed(classes: &[String]) -> String {
    const SHOWN: usize = 5;
    if classes.is_empty() {
        return "none".into();
    }
    let shown = classes.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    if classes.len() > SHOWN { format!("{shown}, …") } else { shown }
}
