//! The data of a training, and its first epoch while the archives are still being unpacked.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mae_core::engine::Data;
use mae_data::{Dataset, Layout, Loader};

use super::data::{self, Placement};
use super::{Run, classes};
use crate::error::{Error, Result};
use crate::spec::Plan;
use crate::spec::schema::{FirstEpoch, Stage};

const TRAIN: &str = "dataset.train_data_sources";
const VALIDATION: &str = "dataset.val_data_sources";

type Batches<'a> = mae_core::engine::Batches<'a, Error>;
type OpenLater<'p> = Box<dyn FnOnce() -> Result<Loader> + 'p>;

/// The training loader of the current epoch, for those who report on it.
pub(super) type CurrentLoader = Rc<RefCell<Loader>>;

/// The batches of a training.
pub(super) struct TrainingData<'p> {
    current: CurrentLoader,
    /// Makes the loader of the epochs after a first one that is streamed.
    later: Option<OpenLater<'p>>,
    validation: Option<Loader>,
    placement: Placement,
    /// Time that the training waited for the loader since this was last read.
    waited: Rc<Cell<Duration>>,
}

impl<'p> TrainingData<'p> {
    /// Opens the sources of a training that starts in epoch `epoch`, in its middle if it is resumed there.
    pub(super) fn open(plan: &'p Plan, run: &Run, epoch: u64, resumes: bool) -> Result<Self> {
        let finetune = plan.train.stage == Stage::Finetune;
        let layout = if finetune { Layout::ImageFolder } else { Layout::Flat };
        let (device, group, progress) = (run.device, run.collective_handle(), run.progress.clone());
        let source = plan.dataset.train_data_sources.as_str();
        let streamed = plan.dataset.first_epoch == FirstEpoch::Streamed && epoch == 0;
        if streamed && group.world_size() > 1 {
            return Err(mae_core::Error::Setting {
                key: "dataset.first_epoch".into(),
                problem: format!(
                    "streamed is for one process, and there are {}: they would have to agree on images that none of \
                     them knows yet",
                    group.world_size()
                ),
                remedy: "leave it out".into(),
            }
            .into());
        }
        let train = match (streamed, resumes) {
            (false, _) => data::open(plan, TRAIN, source, layout, &progress)?,
            // Where the epoch ends has to be known, and then nothing is gained by not waiting for it.
            (true, true) => data::open_with(plan, TRAIN, source, &progress, Dataset::open_in_archive_order)?,
            (true, false) => {
                let dataset = Dataset::open_growing(source, &data::open_options(plan));
                Arc::new(dataset.map_err(|error| Error::from(error).at(TRAIN))?)
            }
        };
        let validation = match plan.dataset.val_data_sources.as_str() {
            "" => None,
            source => Some(data::open(plan, VALIDATION, source, layout, &progress)?),
        };
        if finetune {
            classes::fit_the_model(plan, TRAIN, &train, &progress)?;
            if let Some(validation) = &validation {
                classes::agree(train.classes(), VALIDATION, validation)?;
            }
        }
        let (current, later): (_, Option<OpenLater<'p>>) = if streamed {
            let first = data::shuffled(plan, train, Some(plan.dataset.shuffle_buffer), device, &*group)?;
            let open = move || {
                let dataset = data::open(plan, TRAIN, source, layout, &progress)?;
                data::shuffled(plan, dataset, None, device, &*group)
            };
            (first, Some(Box::new(open)))
        } else {
            (data::shuffled(plan, train, None, device, &*group)?, None)
        };
        Ok(Self {
            current: Rc::new(RefCell::new(current)),
            later,
            validation: validation
                .map(|dataset| data::in_order(plan, dataset, device, run.collective()))
                .transpose()?,
            placement: Placement::new(plan, device),
            waited: Rc::new(Cell::new(Duration::ZERO)),
        })
    }

    /// The loader of the current epoch, as it changes.
    pub(super) fn current(&self) -> &CurrentLoader {
        &self.current
    }

    /// The loader of the current epoch.
    pub(super) fn loader(&self) -> Loader {
        self.current.borrow().clone()
    }

    /// The loader of the validation set, if there is one.
    pub(super) fn validation_loader(&self) -> Option<&Loader> {
        self.validation.as_ref()
    }

    /// Time that the training waited for the loader since this was last read.
    pub(super) fn waited(&self) -> &Rc<Cell<Duration>> {
        &self.waited
    }

    /// Batches of an epoch, unless the archives still have to tell.
    pub(super) fn known_batches(&self) -> Option<u64> {
        let loader = self.loader();
        (!loader.dataset().is_growing()).then(|| loader.batches_per_epoch() as u64)
    }
}

impl Data<Error> for TrainingData<'_> {
    fn batches_per_epoch(&mut self, epoch: u64) -> Result<Option<u64>> {
        if epoch > 0
            && let Some(open) = self.later.take()
        {
            let loader = open()?;
            *self.current.borrow_mut() = loader;
        }
        Ok(self.known_batches())
    }

    fn train(&mut self, epoch: u64, start: u64) -> Result<Batches<'_>> {
        let (loader, placement) = (self.loader(), self.placement);
        let mut batches = loader.epoch(epoch, start as usize);
        Ok(Box::new(std::iter::from_fn(move || {
            let asked = Instant::now();
            let batch = batches.next();
            self.waited.set(self.waited.get() + asked.elapsed());
            Some(batch?.map_err(Error::from).and_then(|batch| placement.place(batch, &loader)))
        })))
    }

    fn validation(&mut self) -> Result<Option<Batches<'_>>> {
        let Some(loader) = &self.validation else { return Ok(None) };
        let placement = self.placement;
        let batches = loader.epoch(0, 0);
        Ok(Some(Box::new(batches.map(move |batch| placement.place_counted(batch?, loader)))))
    }
}
