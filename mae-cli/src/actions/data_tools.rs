//! `mae data`: a data set looked at, checked, packed anew, divided.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use mae_data::decode::RgbImage;
use mae_data::tools::{self, PackOptions, Shard, SheetRow, Survey};
use mae_data::{BadSample, Dataset, Layout, OpenOptions};
use serde_json::json;

use super::signals::Interrupt;
use crate::error::{Error, Result};
use crate::report::progress::{Progress, Task};
use crate::report::write_atomically;
use crate::tool_args::{DataTool, LayoutChoice};

/// Names shown of a longer list.
const SHOWN: usize = 10;

/// How a tool ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToolEnd {
    /// It is done; this is what it says.
    Done(String),
    /// It is done, and the data is wrong.
    Wrong(String),
    /// It was interrupted.
    Interrupted,
}

/// Runs one of `mae data`'s tools.
///
/// # Errors
/// When the data cannot be used or a file not be written.
pub fn data_tool(tool: &DataTool) -> Result<ToolEnd> {
    let context = Context { progress: Progress::detect(), interrupt: Interrupt::watch()? };
    match tool {
        DataTool::Inspect { source, layout, sheet, json } => context.inspect(source, *layout, sheet, *json),
        DataTool::Verify { source, json } => context.verify(source, *json),
        DataTool::Pack { source, target, shard_size } => {
            let dataset = context.open(source, LayoutChoice::Flat)?;
            let images: Vec<usize> = (0..dataset.len()).collect();
            let stem = target.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let folder = match target.parent() {
                Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
                _ => PathBuf::from("."),
            };
            let options = PackOptions { folder, stem, shard_bytes: shard_size * 1_000_000 };
            let shards = context.pack(&dataset, &images, &options)?;
            Ok(shards.map_or(ToolEnd::Interrupted, |shards| ToolEnd::Done(describe_shards(&shards))))
        }
        DataTool::Split { source, folder, val, test, seed, layout, shard_size } => {
            let dataset = context.open(source, *layout)?;
            let mut shares = vec![*val];
            shares.extend((*test != 0.0).then_some(*test));
            let parts = tools::split(&dataset, &shares, *seed)?;
            let names = ["val", "test"].iter().take(shares.len()).chain(&["train"]);
            let mut text = String::new();
            for (name, images) in names.zip(&parts) {
                let options = PackOptions {
                    folder: folder.clone(),
                    stem: (*name).to_owned(),
                    shard_bytes: shard_size * 1_000_000,
                };
                let Some(shards) = context.pack(&dataset, images, &options)? else {
                    return Ok(ToolEnd::Interrupted);
                };
                let _ = write!(
                    text,
                    "{}{name}: {}",
                    if text.is_empty() { "" } else { "\n" },
                    describe_shards(&shards)
                );
            }
            Ok(ToolEnd::Done(text))
        }
    }
}

struct Context {
    progress: Progress,
    interrupt: Interrupt,
}

impl Context {
    fn open(&self, source: &str, layout: LayoutChoice) -> Result<Dataset> {
        let open = |layout| Dataset::open(source, layout, &OpenOptions::default());
        let dataset = match layout {
            LayoutChoice::Folders => open(Layout::ImageFolder),
            LayoutChoice::Flat => open(Layout::Flat),
            LayoutChoice::Auto => match open(Layout::ImageFolder) {
                Err(mae_data::Error::NoClassFolder { .. }) => open(Layout::Flat),
                other => other,
            },
        }?;
        for note in dataset.notes() {
            self.progress.say(&format!("note: {source}: {note}"));
        }
        Ok(dataset)
    }

    fn survey(&self, dataset: &Dataset) -> Result<Option<Survey>> {
        let task = Mutex::new(self.progress.items("Reading", dataset.len() as u64));
        let survey = tools::survey(dataset, 0, |done| self.tick(&task, done))?;
        if let (Ok(task), Some(_)) = (task.into_inner(), &survey) {
            task.finish(&format!("Read {} images of {}", dataset.len(), dataset.source()));
        }
        Ok(survey)
    }

    fn tick(&self, task: &Mutex<Task>, done: usize) -> ControlFlow<()> {
        if let Ok(mut task) = task.lock() {
            task.at(done as u64);
        }
        if self.interrupt.is_asked() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn inspect(&self, source: &str, layout: LayoutChoice, sheet: &Path, json: bool) -> Result<ToolEnd> {
        let dataset = self.open(source, layout)?;
        let Some(survey) = self.survey(&dataset)? else { return Ok(ToolEnd::Interrupted) };
        let (picture, rows) = tools::contact_sheet(&dataset);
        write_atomically(sheet, &png(&picture, sheet)?)?;
        Ok(ToolEnd::Done(if json {
            inspection_json(&dataset, &survey, &rows, sheet)
        } else {
            inspection_text(&dataset, &survey, &rows, sheet)
        }))
    }

    fn verify(&self, source: &str, json: bool) -> Result<ToolEnd> {
        let dataset = self.open(source, LayoutChoice::Flat)?;
        let Some(survey) = self.survey(&dataset)? else { return Ok(ToolEnd::Interrupted) };
        let broken = survey.bad.iter().filter(|bad| bad.replaced).count();
        let damaged = survey.bad.len() - broken;
        let text = if json {
            json!({
                "source": source,
                "images": survey.images,
                "broken": broken,
                "damaged": damaged,
                "digest": dataset.digest(),
                "bad": bad_json(&survey.bad),
            })
            .to_string()
        } else if survey.bad.is_empty() {
            format!("{source}: all {} images can be decoded", survey.images)
        } else {
            let mut text = format!(
                "{source}: {broken} of {} images cannot be decoded, {damaged} only in part",
                survey.images
            );
            for bad in &survey.bad {
                let _ = write!(text, "\n  {}: {}", bad.name, bad.reason);
            }
            text
        };
        Ok(if survey.bad.is_empty() { ToolEnd::Done(text) } else { ToolEnd::Wrong(text) })
    }

    fn pack(&self, dataset: &Dataset, images: &[usize], options: &PackOptions) -> Result<Option<Vec<Shard>>> {
        let task = Mutex::new(self.progress.items(&format!("Packing {}", options.stem), images.len() as u64));
        Ok(tools::pack(dataset, images, options, |done| self.tick(&task, done))?)
    }
}

fn describe_shards(shards: &[Shard]) -> String {
    let (images, bytes) = shards.iter().fold((0, 0), |(i, b), shard| (i + shard.images, b + shard.bytes));
    let names = match shards {
        [] => return "no images".to_owned(),
        [only] => only.path.display().to_string(),
        [first, .., last] => format!("{} … {}", first.path.display(), last.path.display()),
    };
    format!("{images} images, {} in {}: {names}", size(bytes), plural(shards.len(), "shard"))
}

fn inspection_text(dataset: &Dataset, survey: &Survey, rows: &[SheetRow], sheet: &Path) -> String {
    let mut lines =
        vec![format!("{}: {}, {}", dataset.source(), plural(survey.images, "image"), size(survey.bytes))];
    let counts = survey.classes.iter().map(|(_, count)| *count);
    if let (Some(fewest), Some(most)) = (counts.clone().min(), counts.max()) {
        let each = if fewest == most { fewest.to_string() } else { format!("{fewest} to {most}") };
        lines.push(format!("classes     {}, {each} images each", survey.classes.len()));
        let listed = survey.classes.iter().take(SHOWN).map(|(name, count)| format!("{name} {count}"));
        lines.push(format!("            {}", ellipsis(listed.collect(), survey.classes.len())));
    } else {
        lines.push("classes     none".to_owned());
    }
    let formats = survey.formats.iter().map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>();
    lines.push(format!("formats     {}", formats.join(", ")));
    if let Some(sizes) = survey.sizes {
        let text = |(height, width): (usize, usize)| format!("{width}x{height}");
        lines.push(match sizes.distinct {
            1 => format!("sizes       all {}", text(sizes.smallest)),
            distinct => format!(
                "sizes       {distinct} different, {} to {}, median {} (width x height)",
                text(sizes.smallest),
                text(sizes.largest),
                text(sizes.median)
            ),
        });
    }
    let copies: usize = survey.duplicates.iter().map(|group| group.len() - 1).sum();
    lines.push(match copies {
        0 => "copies      none".to_owned(),
        _ => format!("copies      {} the same as another, byte for byte", plural(copies, "image")),
    });
    for group in survey.duplicates.iter().take(SHOWN) {
        let names = group.iter().take(SHOWN).map(|&index| dataset.name(index).to_owned()).collect();
        lines.push(format!("            {}", ellipsis(names, group.len()).replace(", ", " = ")));
    }
    let broken = survey.bad.iter().filter(|bad| bad.replaced).count();
    lines.push(match (broken, survey.bad.len() - broken) {
        (0, 0) => "broken      none".to_owned(),
        (broken, damaged) => format!("broken      {broken} cannot be decoded, {damaged} only in part"),
    });
    for bad in survey.bad.iter().take(SHOWN) {
        lines.push(format!("            {}: {}", bad.name, bad.reason));
    }
    let shown = rows.iter().map(|row| row.images.len()).sum();
    lines.push(format!("sheet       {} of {}", sheet.display(), plural(shown, "image")));
    if rows.iter().any(|row| row.class.is_some()) {
        let names: Vec<_> = rows.iter().filter_map(|row| row.class.clone()).collect();
        lines.push(format!("            a row a class: {}", names.join(", ")));
    }
    lines.join("\n")
}

fn inspection_json(dataset: &Dataset, survey: &Survey, rows: &[SheetRow], sheet: &Path) -> String {
    let classes: BTreeMap<_, _> = survey.classes.iter().cloned().collect();
    let size = |(height, width): (usize, usize)| json!({"width": width, "height": height});
    let names = |group: &Vec<usize>| group.iter().map(|&i| dataset.name(i)).collect::<Vec<_>>();
    json!({
        "source": dataset.source(),
        "digest": dataset.digest(),
        "images": survey.images,
        "bytes": survey.bytes,
        "classes": classes,
        "formats": survey.formats,
        "sizes": survey.sizes.map(|sizes| json!({
            "smallest": size(sizes.smallest),
            "median": size(sizes.median),
            "largest": size(sizes.largest),
            "distinct": sizes.distinct,
        })),
        "duplicates": survey.duplicates.iter().map(names).collect::<Vec<_>>(),
        "bad": bad_json(&survey.bad),
        "sheet": sheet,
        "sheet_rows": rows
            .iter()
            .map(|row| json!({"class": row.class, "images": names(&row.images)}))
            .collect::<Vec<_>>(),
    })
    .to_string()
}

fn bad_json(bad: &[BadSample]) -> Vec<serde_json::Value> {
    bad.iter().map(|bad| json!({"path": bad.name, "broken": bad.replaced, "reason": bad.reason})).collect()
}

fn png(picture: &RgbImage, path: &Path) -> Result<Vec<u8>> {
    let failed = |error: png::EncodingError| -> Error {
        crate::report::Error::write(path)(std::io::Error::other(error)).into()
    };
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, picture.width as u32, picture.height as u32);
    encoder.set_color(png::ColorType::Rgb);
    encoder.write_header().and_then(|mut writer| writer.write_image_data(&picture.data)).map_err(failed)?;
    Ok(bytes)
}

fn ellipsis(mut names: Vec<String>, count: usize) -> String {
    if count > names.len() {
        names.push("…".to_owned());
    }
    names.join(", ")
}

fn plural(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

fn size(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}
