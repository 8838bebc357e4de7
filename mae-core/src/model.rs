//! A network with its parameters: what a library user holds.

use tch::{Device, Kind, Tensor};

use crate::arch::{Arch, Family};
use crate::backbone::Purpose;
use crate::checkpoint::dialect::{self, LoadReport, Role};
use crate::checkpoint::{Checkpoint, TensorView};
use crate::classify::{Classifier, ClassifierConfig};
use crate::error::{Error, Result};
use crate::ops::Eager;
use crate::params::{Declare, Params};
use crate::pretrain::{MaskedAutoencoder, PretrainConfig, Reconstruction, mask_noise};

/// A network of the catalogue with its parameters, on one device.
///
/// ```
/// use mae_core::arch::Arch;
/// use mae_core::model::{Model, Network};
/// use mae_core::pretrain::PretrainConfig;
/// use tch::{Device, Kind, Tensor};
///
/// # fn main() -> mae_core::Result<()> {
/// let arch = Arch::by_name("convnextv2_atto")?;
/// let model = Model::pretrain(arch, (64, 64), PretrainConfig::default(), 1234, Device::Cpu)?;
/// let images = Tensor::rand([2, 3, 64, 64], (Kind::Float, Device::Cpu));
/// // One key a sample decides what is hidden.
/// let output = model.reconstruct(&images, &[7, 8])?;
/// assert!(f64::try_from(&output.loss)? > 0.0);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Model {
    /// The architecture.
    pub arch: &'static Arch,
    /// Height and width of its images.
    pub size: (i64, i64),
    /// The network.
    pub network: Network,
    /// The named table.
    pub params: Params,
}

/// What a model does.
#[derive(Debug)]
pub enum Network {
    /// Reconstructs hidden patches.
    Pretrain(Box<MaskedAutoencoder>),
    /// Classifies.
    Classify(Classifier),
}

impl Model {
    /// A new masked autoencoder, its parameters drawn from `seed`.
    ///
    /// # Errors
    /// [`Error::InputSize`], [`Error::MaskRatio`], or when libtorch has no memory.
    pub fn pretrain(
        arch: &'static Arch,
        size: (i64, i64),
        config: PretrainConfig,
        seed: u64,
        device: Device,
    ) -> Result<Self> {
        let root = Declare::root();
        let network = Network::Pretrain(Box::new(MaskedAutoencoder::declare(&root, arch, size, config)?));
        Ok(Model { arch, size, network, params: Params::new(root.into_specs(), seed, device)? })
    }

    /// A new classifier, its parameters drawn from `seed`.
    ///
    /// ```
    /// use mae_core::arch::Arch;
    /// use mae_core::backbone::Purpose;
    /// use mae_core::classify::{ClassifierConfig, cross_entropy};
    /// use mae_core::model::Model;
    /// use mae_core::ops::Eager;
    /// use tch::{Device, Kind, Tensor};
    ///
    /// # fn main() -> mae_core::Result<()> {
    /// let arch = Arch::by_name("convnextv2_atto")?;
    /// let config = ClassifierConfig { num_classes: 10, drop_path_rate: 0.0, purpose: Purpose::Finetune };
    /// let model = Model::classifier(arch, (64, 64), &config, 1234, Device::Cpu)?;
    /// let images = Tensor::rand([2, 3, 64, 64], (Kind::Float, Device::Cpu));
    /// assert_eq!(model.logits(&images)?.size(), [2, 10]);
    ///
    /// // To train, ask the network itself: its logits carry gradients.
    /// let logits = model.classify()?.logits(&Eager::new(&model.params), &images)?;
    /// let loss = cross_entropy(&logits, &Tensor::from_slice(&[3i64, 7]), 0.1)?;
    /// loss.backward();
    /// let head = model.params.get(model.params.id("head.weight")?);
    /// assert_eq!(head.grad().size(), [10, 320]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::InputSize`], [`Error::Setting`] for less than one class, or when libtorch has no memory.
    pub fn classifier(
        arch: &'static Arch,
        size: (i64, i64),
        config: &ClassifierConfig,
        seed: u64,
        device: Device,
    ) -> Result<Self> {
        let root = Declare::root();
        let network = Network::Classify(Classifier::declare(&root, arch, size, config)?);
        Ok(Model { arch, size, network, params: Params::new(root.into_specs(), seed, device)? })
    }

    /// A pretrained encoder to be used as it is, with a new head: its [`features`](Self::features) are what counts. Nothing in
    /// it is trainable.
    ///
    /// ```
    /// use mae_core::arch::Arch;
    /// use mae_core::model::Model;
    /// use tch::{Device, Kind, Tensor};
    ///
    /// # fn main() -> mae_core::Result<()> {
    /// // Any legal size; positions are interpolated, for rectangles too.
    /// let encoder = Model::backbone(Arch::by_name("convnextv2_atto")?, (64, 96), 1, 1234, Device::Cpu)?;
    /// let images = Tensor::rand([2, 3, 64, 96], (Kind::Float, Device::Cpu));
    /// assert_eq!(encoder.features(&images)?.size(), [2, 320]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`classifier`](Self::classifier).
    pub fn backbone(
        arch: &'static Arch,
        size: (i64, i64),
        num_classes: i64,
        seed: u64,
        device: Device,
    ) -> Result<Self> {
        let root = Declare::frozen_root();
        let config = ClassifierConfig { num_classes, drop_path_rate: 0.0, purpose: Purpose::Features };
        let network = Network::Classify(Classifier::declare(&root, arch, size, &config)?);
        Ok(Model { arch, size, network, params: Params::new(root.into_specs(), seed, device)? })
    }

    /// Images `[N, 3, H, W]` → logits `[N, num_classes]`, without gradients, in fp32.
    ///
    /// # Errors
    /// [`Error::Setting`] for a masked autoencoder.
    pub fn logits(&self, images: &Tensor) -> Result<Tensor> {
        let _guard = tch::no_grad_guard();
        self.classify()?.logits(&Eager::new(&self.params), images)
    }

    /// Images `[N, 3, H, W]` → pooled features `[N, C]`, without gradients, in fp32.
    ///
    /// # Errors
    /// [`Error::Setting`] for a masked autoencoder.
    pub fn features(&self, images: &Tensor) -> Result<Tensor> {
        let _guard = tch::no_grad_guard();
        self.classify()?.features(&Eager::new(&self.params), images)
    }

    /// Images `[N, 3, H, W]` → their reconstruction, with gradients; key `i` decides what image `i` hides.
    ///
    /// # Errors
    /// [`Error::Setting`] for a classifier.
    pub fn reconstruct(&self, images: &Tensor, sample_keys: &[u64]) -> Result<Reconstruction> {
        let autoencoder = self.autoencoder()?;
        let noise = mask_noise(sample_keys, autoencoder.patches(), images.device())?;
        autoencoder.forward(&Eager::new(&self.params), images, &noise)
    }

    /// Takes part in a forward pass that other processes make for images of theirs, without one of its own: nothing to do
    /// but for a model in shares, which is gathered by all.
    ///
    /// # Errors
    /// A lost or late peer.
    pub fn join_forward(&self) -> Result<()> {
        if !self.params.is_sharded() {
            return Ok(());
        }
        let _guard = tch::no_grad_guard();
        let device = self.params.iter().next().map_or(Device::Cpu, |(_, _, tensor)| tensor.device());
        let image = Tensor::f_zeros([1, 3, self.size.0, self.size.1], (Kind::Float, device))?;
        match &self.network {
            Network::Classify(_) => self.logits(&image).map(drop),
            Network::Pretrain(_) => self.reconstruct(&image, &[0]).map(drop),
        }
    }

    /// The classifier.
    ///
    /// # Errors
    /// [`Error::Setting`] for a masked autoencoder.
    pub fn classify(&self) -> Result<&Classifier> {
        match &self.network {
            Network::Classify(classifier) => Ok(classifier),
            Network::Pretrain(_) => Err(wrong_stage("finetune", "a masked autoencoder")),
        }
    }

    /// The masked autoencoder.
    ///
    /// # Errors
    /// [`Error::Setting`] for a classifier.
    pub fn autoencoder(&self) -> Result<&MaskedAutoencoder> {
        match &self.network {
            Network::Pretrain(autoencoder) => Ok(autoencoder),
            Network::Classify(_) => Err(wrong_stage("pretrain", "a classifier")),
        }
    }

    /// Every parameter by its state-dict name, in order. Nothing is copied until the views are read. If the parameters
    /// are sharded, all processes ask for it, and the first one gets copies of the whole tensors; the others' are empty.
    ///
    /// # Errors
    /// When a tensor cannot be viewed; a lost or late peer.
    pub fn state_dict(&self) -> Result<Vec<(String, TensorView)>> {
        self.params
            .iter()
            .map(|(id, spec, tensor)| Ok((spec.name.clone(), self.params.view(id, tensor)?)))
            .collect()
    }

    /// Loads the weights of a checkpoint, ours or another project's; `role` says which part of it is wanted. What was
    /// renamed, resampled, left out or missing is in the report.
    ///
    /// ```
    /// use mae_core::arch::Arch;
    /// use mae_core::checkpoint::{self, Checkpoint, dialect::Role, lightning::CheckpointContents};
    /// use mae_core::model::Model;
    /// use mae_core::pretrain::PretrainConfig;
    /// use tch::Device;
    ///
    /// # fn main() -> mae_core::Result<()> {
    /// # let folder = tempfile::tempdir().map_err(|source| mae_core::Error::Io { action: "making", path: "a folder".into(), source })?;
    /// # let path = folder.path().join("pretrained.pth");
    /// let arch = Arch::by_name("convnextv2_atto")?;
    /// let pretrained = Model::pretrain(arch, (64, 64), PretrainConfig::default(), 1234, Device::Cpu)?;
    /// checkpoint::write(&path, &CheckpointContents::new(pretrained.state_dict()?).to_value())?;
    ///
    /// let mut encoder = Model::backbone(arch, (64, 64), 10, 0, Device::Cpu)?;
    /// let report = encoder.load(&Checkpoint::open(&path)?, Role::Backbone)?;
    /// assert!(report.loaded_tensors() > 100);
    /// println!("{report}");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When the file cannot be read, or (nearly) nothing in it fits.
    pub fn load(&mut self, checkpoint: &Checkpoint, role: Role) -> Result<LoadReport> {
        self.load_state_dict(&checkpoint.state_dict()?, role)
    }

    /// Loads a state dict.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_state_dict(&mut self, source: &[(String, TensorView)], role: Role) -> Result<LoadReport> {
        let target: Vec<_> = self.params.iter().map(|(_, s, _)| (s.name.clone(), s.shape.clone())).collect();
        // Hiera's table is as large as the image. A ViT classifier's is always a square, resampled at run time.
        let (family, grid) = match self.arch.family {
            Family::ConvNeXtV2(_) => (dialect::Family::ConvNeXtV2, None),
            Family::Hiera(_) => (dialect::Family::Hiera, Some((self.size.0 / 4, self.size.1 / 4))),
            Family::Vit(_) => (dialect::Family::Vit, None),
        };
        let plan = dialect::plan_on_grid(source, &target, family, role, grid)?;
        for assignment in &plan.assignments {
            let id = self.params.id(&assignment.target)?;
            self.params.assign(id, &assignment.to_tensor()?)?;
        }
        Ok(plan.report)
    }
}

fn wrong_stage(stage: &str, found: &str) -> Error {
    Error::Setting {
        key: "train.stage".into(),
        problem: format!("this needs a model of stage {stage}, found {found}"),
        remedy: format!("use a checkpoint and a spec of stage {stage}"),
    }
}
