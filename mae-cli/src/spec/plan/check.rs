//! The rules: bounds and options of each field, then what fields and the action ask of each other.

use super::{Action, Plan};
use crate::spec::convert;
use crate::spec::error::{Error, Kind, Result};
use crate::spec::python;
use crate::spec::schema::{
    self, Condition, ExportFormat, FirstEpoch, IntervalUnit, Leaf, Limit, LrScheduler, Stage,
};
use crate::spec::value::{Map, Node, Value, select};

mod engine;

/// Bounds and options of every field.
pub(super) fn fields(root: &Map) -> Result<()> {
    for (path, _, leaf) in schema::leaves() {
        if let Some(node) = select(root, &path) {
            field(&path, leaf, node)?;
        }
    }
    Ok(())
}

fn field(path: &str, leaf: &Leaf, node: &Node) -> Result<()> {
    let wrong = |kind: Kind, problem: String| {
        Error::new(kind, problem)
            .key(path)
            .value(node.value.shown())
            .at(&node.origin)
            .remedy(convert::example(path, leaf))
    };
    if let (Value::List(items), Some(Limit::Length(length))) = (&node.value, leaf.limit)
        && items.len() != length
    {
        return Err(wrong(Kind::OutOfBounds, format!("expected {length} numbers, found {}", items.len())));
    }
    if leaf.shape == schema::Shape::Pair && matches!(node.value, Value::Float(_)) {
        return Err(wrong(Kind::TypeMismatch, "expected two numbers, found one".to_owned()));
    }
    let values: Vec<&Value> = match &node.value {
        Value::List(items) => items.iter().map(|item| &item.value).collect(),
        value => vec![value],
    };
    for value in values {
        match value {
            Value::Int(number) => {
                bounds(leaf, *number as f64).map_err(|rule| wrong(Kind::OutOfBounds, rule))?
            }
            Value::Float(number) if !number.is_finite() => {
                return Err(wrong(Kind::OutOfBounds, "expected a finite number".to_owned()));
            }
            Value::Float(number) => bounds(leaf, *number).map_err(|rule| wrong(Kind::OutOfBounds, rule))?,
            _ => {}
        }
    }
    option(leaf, &node.value).map_err(|problem| {
        let Some(near) = nearest(leaf, &node.value.to_text()) else {
            return wrong(Kind::NotAnOption, problem);
        };
        wrong(Kind::NotAnOption, problem).remedy(format!("did you mean {near}?"))
    })
}

/// Where TAO's minimum and its condition contradict each other (minimum 0, condition `> 0`), the minimum decides;
/// fields for which zero makes no sense have a limit of our own.
fn bounds(leaf: &Leaf, value: f64) -> std::result::Result<(), String> {
    let number =
        |value: f64| if value.fract() == 0.0 { format!("{value}") } else { python::float_repr(value) };
    let expected = |rule: String| Err(format!("expected {rule}"));
    if let Some(min) = leaf.min
        && value < min
    {
        return expected(match leaf.max {
            Some(max) if max.is_finite() => format!("a number from {} to {}", number(min), number(max)),
            _ => format!("at least {}", number(min)),
        });
    }
    if let Some(max) = leaf.max
        && value > max
    {
        return expected(format!("at most {}", number(max)));
    }
    match leaf.condition {
        Some(Condition::Above(bound)) if leaf.min != Some(bound) && value <= bound => {
            return expected(format!("more than {}", number(bound)));
        }
        Some(Condition::AtLeast(bound)) if value < bound => {
            return expected(format!("at least {}", number(bound)));
        }
        _ => {}
    }
    match leaf.limit {
        Some(Limit::Between(low, high)) if !(low..=high).contains(&value) => {
            expected(format!("a number from {} to {}", number(low), number(high)))
        }
        Some(Limit::Within(low, high)) if value <= low || value >= high => {
            expected(format!("a number between {} and {}, both excluded", number(low), number(high)))
        }
        Some(Limit::AtLeast(low)) if value < low => expected(format!("at least {}", number(low))),
        Some(Limit::Above(low)) if value <= low => expected(format!("more than {}", number(low))),
        _ => Ok(()),
    }
}

fn option(leaf: &Leaf, value: &Value) -> std::result::Result<(), String> {
    let known: Vec<&str> = leaf.options.iter().chain(leaf.more_options).copied().collect();
    let text = value.to_text();
    if known.is_empty() || *value == Value::Null || known.contains(&text.as_str()) {
        return Ok(());
    }
    Err(format!("expected one of {}", known.join(", ")))
}

fn nearest(leaf: &Leaf, text: &str) -> Option<&'static str> {
    let text = text.to_ascii_lowercase();
    leaf.options
        .iter()
        .chain(leaf.more_options)
        .map(|option| (strsim::damerau_levenshtein(&text, &option.to_ascii_lowercase()), *option))
        .filter(|(distance, option)| *distance <= option.len() / 2)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, option)| option)
}

/// What fields and the action ask of each other.
pub(super) fn rules(plan: &Plan) -> Result<()> {
    let contradiction = |key: &str, problem: String, remedy: String| {
        let value = select(&plan.root, key).map_or_else(String::new, |node| node.value.shown());
        Error::new(Kind::Contradiction, problem).key(key).value(value).at(&plan.origin(key)).remedy(remedy)
    };
    let augmentation = &plan.dataset.augmentation;
    for (low, high, key) in [
        (augmentation.min_scale, augmentation.max_scale, "scale"),
        (augmentation.min_ratio, augmentation.max_ratio, "ratio"),
    ] {
        if low > high {
            return Err(contradiction(
                &format!("dataset.augmentation.min_{key}"),
                format!("it is larger than max_{key} = {}", python::float_repr(high)),
                "swap the two".to_owned(),
            ));
        }
    }
    if let Some([low, high]) = augmentation.cutmix_minmax
        && !(0.0 <= low && low <= high && high <= 1.0)
    {
        return Err(contradiction(
            "dataset.augmentation.cutmix_minmax",
            "expected two shares of the image's side, the smaller first".to_owned(),
            "for example dataset.augmentation.cutmix_minmax=[0.2, 0.8]".to_owned(),
        ));
    }
    if augmentation.std.iter().any(|std| *std <= 0.0) {
        return Err(contradiction(
            "dataset.augmentation.std",
            "a standard deviation must be more than 0".to_owned(),
            "for example dataset.augmentation.std=[0.229, 0.224, 0.225]".to_owned(),
        ));
    }
    match plan.action {
        Action::Train => train(plan, contradiction),
        Action::Evaluate => {
            checkpoint(plan)?;
            required(plan, "dataset.val_data_sources", "evaluate measures accuracy on these images")
        }
        Action::Inference => {
            if plan.train.stage == Stage::Pretrain {
                return Err(contradiction(
                    "train.stage",
                    "inference needs a classifier, and a model of stage pretrain has none".to_owned(),
                    "set train.stage=finetune and give a finetuned checkpoint".to_owned(),
                ));
            }
            checkpoint(plan)?;
            required(plan, "dataset.test_data_sources", "inference classifies these images")
        }
        Action::Export => {
            export(plan, contradiction)?;
            checkpoint(plan)
        }
        Action::GenTrtEngine => {
            required(plan, "gen_trt_engine.onnx_file", "gen_trt_engine builds an engine from an ONNX file")?;
            engine::rules(plan, contradiction)
        }
    }
}

fn export(plan: &Plan, contradiction: impl Fn(&str, String, String) -> Error) -> Result<()> {
    let export = &plan.export;
    if export.format == ExportFormat::Xdl {
        return Err(contradiction(
            "export.format",
            "no such files are written, neither here nor by TAO".to_owned(),
            "set export.format=onnx".to_owned(),
        ));
    }
    let safetensors = export.format == ExportFormat::Safetensors;
    for (key, set) in
        [("export.verify", export.verify), ("export.include_preprocessing", export.include_preprocessing)]
    {
        if safetensors && set {
            return Err(contradiction(
                key,
                "a safetensors file holds weights, and no model that could be run".to_owned(),
                "set export.format=onnx, or leave it out".to_owned(),
            ));
        }
    }
    if safetensors && plan.onnx_file().extension().is_some_and(|extension| extension == "onnx") {
        return Err(contradiction(
            "export.onnx_file",
            "export.format is safetensors, and the name says ONNX".to_owned(),
            "end the name with .safetensors, or leave it out".to_owned(),
        ));
    }
    if export.verify && plan.verification_source().is_none() {
        required(plan, "dataset.val_data_sources", "export.verify compares the two programs on its images")?;
    }
    Ok(())
}

fn train(plan: &Plan, contradiction: impl Fn(&str, String, String) -> Error) -> Result<()> {
    required(plan, "dataset.train_data_sources", "training reads these images")?;
    if plan.train.stage == Stage::Finetune {
        required(
            plan,
            "dataset.val_data_sources",
            "finetuning measures accuracy on these images after each epoch",
        )?;
    }
    if plan.dataset.first_epoch == FirstEpoch::Streamed {
        streamed(plan, &contradiction)?;
    }
    let epochs = plan.train.num_epochs;
    let mut intervals = vec![("train.validation_interval", plan.train.validation_interval)];
    if plan.train.checkpoint_interval_unit == IntervalUnit::Epoch {
        intervals.insert(0, ("train.checkpoint_interval", plan.train.checkpoint_interval));
    }
    for (key, interval) in intervals {
        if interval > epochs {
            return Err(contradiction(
                key,
                format!("the interval is longer than the training, train.num_epochs = {epochs}"),
                format!("set {key} to at most {epochs}"),
            ));
        }
    }
    if plan.train.encrypt_checkpoints && plan.passphrase().is_none() {
        return Err(contradiction(
            "train.encrypt_checkpoints",
            "checkpoints are encrypted with encryption_key, which is not set".to_owned(),
            "put a passphrase into a variable and set encryption_key='${oc.env:NAME}'".to_owned(),
        ));
    }
    if plan.train.encrypt_checkpoints && plan.train.checkpoint_safetensors {
        return Err(contradiction(
            "train.encrypt_checkpoints",
            "train.checkpoint_safetensors writes the same weights in the clear".to_owned(),
            "leave one of the two out".to_owned(),
        ));
    }
    if let Some(text) = &plan.train.max_time
        && plan.max_time().is_none()
    {
        return Err(contradiction(
            "train.max_time",
            format!("expected days, hours, minutes and seconds, DD:HH:MM:SS, found {text}"),
            "for example train.max_time=00:03:55:00".to_owned(),
        ));
    }
    Ok(())
}

/// What needs all names of the archive before the first step.
fn streamed(plan: &Plan, contradiction: impl Fn(&str, String, String) -> Error) -> Result<()> {
    let refuse = |problem: &str, remedy: &str| {
        Err(contradiction("dataset.first_epoch", problem.to_owned(), remedy.to_owned()))
    };
    if plan.train.stage == Stage::Finetune {
        return refuse(
            "fine-tuning needs the names of all class folders, which are known when the archive is unpacked",
            "leave out dataset.first_epoch",
        );
    }
    if plan.train.optim.lr_scheduler == LrScheduler::Cosine {
        return refuse(
            "a cosine schedule needs the number of steps, which is known when the archive is unpacked",
            "leave out dataset.first_epoch, or set train.optim.lr_scheduler=MultiStep",
        );
    }
    Ok(())
}

fn checkpoint(plan: &Plan) -> Result<()> {
    let action = plan.action.name();
    required(plan, &format!("{action}.checkpoint"), &format!("{action} starts from a trained model"))
}

fn required(plan: &Plan, key: &str, why: &str) -> Result<()> {
    let given = match key {
        "dataset.train_data_sources" => plan.dataset.train_data_sources.as_str(),
        "dataset.val_data_sources" => plan.dataset.val_data_sources.as_str(),
        "dataset.test_data_sources" => plan.dataset.test_data_sources.as_deref().unwrap_or(""),
        "gen_trt_engine.onnx_file" => plan.gen_trt_engine.onnx_file.as_str(),
        _ => plan.checkpoint(),
    };
    if !given.is_empty() {
        return Ok(());
    }
    let example = match schema::find(key) {
        Some(schema::Found::Leaf(_, leaf)) => convert::example(key, leaf),
        _ => format!("set {key}"),
    };
    Err(Error::new(Kind::Required, format!("not set, and {why}"))
        .key(key)
        .at(&plan.origin(key))
        .remedy(format!("set it in the spec or on the command line, {example}")))
}

/// What is accepted and deserves a sentence.
pub(super) fn notes(plan: &Plan) -> Vec<String> {
    let mut notes = Vec::new();
    if !matches!(plan.action, Action::Export | Action::GenTrtEngine) {
        let (count, ids) = plan.gpus();
        if count != ids.len() {
            let devices = plan.devices();
            notes.push(format!(
                "Number of gpus {count} != len({ids:?}). Using GPUs {devices:?} (total {})",
                devices.len()
            ));
        }
    }
    if plan.action == Action::Train && plan.passphrase().is_some() && !plan.train.encrypt_checkpoints {
        notes.push(
            "encryption_key opens encrypted checkpoints; those that are written are not encrypted \
             (train.encrypt_checkpoints=true does)"
                .to_owned(),
        );
    }
    notes
}
