//! `bad_samples.csv`: the images of a run that could not be read, or only in part, on all ranks.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use mae_core::engine::Collective;
use mae_data::{BadSample, Loader};

use super::Run;
use crate::error::{Error, Result};
use crate::report::progress::Progress;
use crate::report::{self, write_atomically};
use crate::spec::Plan;

const COLUMNS: [&str; 3] = ["path", "replaced", "reason"];

/// The list of a run. Only the first rank writes it.
pub(super) struct BadSamples {
    path: PathBuf,
    rank: usize,
    rows: BTreeMap<String, (bool, String)>,
    written: usize,
}

impl BadSamples {
    /// The list of a results folder: that of the run that is resumed, or a new one, for which an old file is removed.
    pub(super) fn open(plan: &Plan, rank: usize, resumes: bool) -> Result<Self> {
        let path = plan.results_dir().join("bad_samples.csv");
        let mut list = Self { path, rank, rows: BTreeMap::new(), written: 0 };
        if resumes {
            list.read()?;
        } else if rank == 0 && list.path.exists() {
            std::fs::remove_file(&list.path).map_err(report::Error::write(&list.path))?;
        }
        Ok(list)
    }

    /// Takes in what the loaders of all ranks have found by now. Each rank must call it, with as many loaders.
    ///
    /// # Errors
    /// When there are more than `dataset.max_bad_fraction` over all ranks; the same on each.
    pub(super) fn gather(&mut self, loaders: &[Loader], collective: &dyn Collective) -> Result<()> {
        for loader in loaders {
            let found = gather(&loader.bad_samples(), collective)?;
            let excess = loader.check_bad_samples(&found);
            self.add(found);
            self.write()?;
            excess?;
        }
        Ok(())
    }

    /// Takes in what the loaders of this rank have found, when the others cannot be asked.
    pub(super) fn keep(&mut self, loaders: &[Loader]) -> Result<()> {
        loaders.iter().for_each(|loader| self.add(loader.bad_samples()));
        self.write()
    }

    /// Closes the list of an action that reads its images once: takes in what was found, and tells where it is.
    ///
    /// # Errors
    /// That of `result`, and as [`gather`](Self::gather).
    pub(super) fn close(mut self, loader: &Loader, result: Result<()>, run: &Run) -> Result<()> {
        if result.is_err() || run.is_interrupted() {
            self.keep(std::slice::from_ref(loader))?;
        } else {
            self.gather(std::slice::from_ref(loader), run.collective())?;
        }
        self.announce(&run.progress);
        result
    }

    /// Tells where the list is, if there is one.
    pub(super) fn announce(&self, progress: &Progress) {
        let Some(first) = self.rows.keys().next() else { return };
        let count = match self.rows.len() {
            1 => "1 image".to_owned(),
            count => format!("{count} images"),
        };
        progress.say(&format!(
            "{count} could not be read, or not in full, first {first}: see {}",
            self.path.display()
        ));
    }

    fn add(&mut self, found: Vec<BadSample>) {
        self.rows.extend(found.into_iter().map(|bad| (bad.name, (bad.replaced, bad.reason))));
    }

    fn read(&mut self) -> Result<()> {
        let bytes = match std::fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(report::Error::write(&self.path)(error).into()),
        };
        for row in csv::Reader::from_reader(&bytes[..]).into_records() {
            // A line that someone has changed is left out: the image will be found again if it is used.
            let Ok(row) = row else { continue };
            if let (Some(name), Some(replaced), Some(reason)) = (row.get(0), row.get(1), row.get(2)) {
                self.rows.insert(name.to_owned(), (replaced == "true", reason.to_owned()));
            }
        }
        self.written = self.rows.len();
        Ok(())
    }

    fn write(&mut self) -> Result<()> {
        if self.rank != 0 || self.rows.len() == self.written {
            return Ok(());
        }
        let bytes =
            self.to_csv().map_err(|error| report::Error::write(&self.path)(io::Error::other(error)))?;
        write_atomically(&self.path, &bytes)?;
        self.written = self.rows.len();
        Ok(())
    }

    fn to_csv(&self) -> std::result::Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>> {
        let mut writer = csv::Writer::from_writer(Vec::new());
        writer.write_record(COLUMNS)?;
        for (name, (replaced, reason)) in &self.rows {
            writer.write_record([name, &replaced.to_string(), reason])?;
        }
        Ok(writer.into_inner()?)
    }
}

/// What all ranks have found.
fn gather(found: &[BadSample], collective: &dyn Collective) -> Result<Vec<BadSample>> {
    if collective.world_size() == 1 {
        return Ok(found.to_vec());
    }
    let failed = |error: serde_json::Error| -> Error {
        mae_core::engine::CollectiveError {
            operation: "gather of unreadable images",
            rank: collective.rank(),
            reason: error.to_string(),
        }
        .into()
    };
    let rows: Vec<_> = found.iter().map(|bad| (bad.index, &bad.name, &bad.reason, bad.replaced)).collect();
    let bytes = serde_json::to_vec(&rows).map_err(failed)?;
    let mut all = BTreeMap::new();
    for part in collective.gather_bytes(&bytes)? {
        let part: Vec<(u64, String, String, bool)> = serde_json::from_slice(&part).map_err(failed)?;
        all.extend(
            part.into_iter()
                .map(|(index, name, reason, replaced)| (index, BadSample { index, name, reason, replaced })),
        );
    }
    Ok(all.into_values().collect())
}
