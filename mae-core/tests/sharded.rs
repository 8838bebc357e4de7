//! A model whose table is sharded computes what it computed before, asks for nothing outside of what is gathered, and
//! holds its share only. Real processes are in `mae-dist`.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed expectation is a failed test")]

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use mae_core::arch::Arch;
use mae_core::backbone::Purpose;
use mae_core::classify::ClassifierConfig;
use mae_core::model::Model;
use mae_core::ops::Precision;
use mae_core::params::{Part, Sharding, UnitOptions};
use mae_core::pretrain::PretrainConfig;
use tch::{Device, Kind, Tensor};

/// The second of three ranks, whose peers agree with everything. What is not gathered is not a number.
#[derive(Debug, Default)]
struct Second {
    units: RefCell<Vec<Vec<(Tensor, Tensor)>>>,
    gathered: RefCell<Vec<usize>>,
    most: Cell<usize>,
    passes: Cell<usize>,
}

impl Second {
    fn set(&self, unit: usize, there: bool) {
        let _guard = tch::no_grad_guard();
        for (whole, value) in &self.units.borrow()[unit] {
            let mut whole = whole.shallow_clone();
            if there { whole.copy_(&value.to_kind(whole.kind())) } else { drop(whole.fill_(f64::NAN)) }
        }
        let mut gathered = self.gathered.borrow_mut();
        gathered.retain(|other| *other != unit);
        if there {
            gathered.push(unit);
        }
        self.most.set(self.most.get().max(gathered.len()));
    }
}

fn third(elements: i64) -> i64 {
    (elements + 2) / 3
}

impl Sharding for Second {
    fn add(&self, parameters: &[Tensor], options: UnitOptions) -> mae_core::Result<Vec<Part>> {
        let parts: Vec<Part> = parameters
            .iter()
            .map(|parameter| {
                let (start, elements) = (third(parameter.numel() as i64), parameter.numel() as i64);
                let start = start.min(elements);
                let length = third(elements).min(elements - start);
                let share = parameter.detach().flatten(0, -1).narrow(0, start, length).copy();
                let whole = parameter.detach().to_kind(options.held).copy();
                Part { whole: whole.set_requires_grad(parameter.requires_grad()), share, start }
            })
            .collect();
        let wire = |parameter: &Tensor| parameter.detach().to_kind(options.wire);
        self.units.borrow_mut().push(
            parts.iter().zip(parameters).map(|(part, whole)| (part.whole.detach(), wire(whole))).collect(),
        );
        self.set(self.units.borrow().len() - 1, false);
        Ok(parts)
    }

    fn begin_pass(&self) -> mae_core::Result<()> {
        self.passes.set(self.passes.get() + 1);
        (0..self.units.borrow().len()).for_each(|unit| self.set(unit, false));
        Ok(())
    }

    fn gather(&self, units: &[usize]) -> mae_core::Result<()> {
        units.iter().for_each(|&unit| self.set(unit, true));
        Ok(())
    }

    fn release(&self, units: &[usize], _output: &Tensor) -> mae_core::Result<()> {
        units.iter().for_each(|&unit| self.set(unit, false));
        Ok(())
    }

    fn backward(&self, _loss: &Tensor) -> mae_core::Result<()> {
        panic!("nothing here goes backward")
    }

    fn assemble(&self, unit: usize, place: usize, _share: &Tensor) -> mae_core::Result<Option<Tensor>> {
        Ok(Some(self.units.borrow()[unit][place].1.to_kind(Kind::Float).flatten(0, -1)))
    }

    fn sum(&self, value: f64) -> mae_core::Result<f64> {
        Ok(3.0 * value)
    }
}

fn models(name: &str) -> [Model; 2] {
    let arch = Arch::by_name(name).unwrap();
    let size = if name.starts_with("hiera") { (64, 64) } else { (32, 32) };
    let config = ClassifierConfig { num_classes: 10, drop_path_rate: 0.0, purpose: Purpose::Finetune };
    // Deep enough for a block of the decoder, and no deeper.
    let pretrain = PretrainConfig { decoder_depth: Some(1), mask_ratio: 0.5, ..PretrainConfig::default() };
    let size = if name.starts_with("convnext") { (64, 64) } else { size };
    [
        Model::pretrain(arch, size, pretrain, 7, Device::Cpu).unwrap(),
        Model::classifier(arch, size, &config, 7, Device::Cpu).unwrap(),
    ]
}

fn output(model: &Model) -> Tensor {
    let images = Tensor::arange(3 * model.size.0 * model.size.1, (Kind::Float, Device::Cpu));
    let images = (images * 0.37).sin().reshape([1, 3, model.size.0, model.size.1]);
    let _guard = tch::no_grad_guard();
    match model.classify() {
        Ok(_) => model.logits(&images).unwrap(),
        Err(_) => model.reconstruct(&images, &[11]).unwrap().pred,
    }
}

#[test]
fn every_family_reads_what_is_gathered_and_nothing_else() {
    for name in ["convnextv2_atto", "hiera_tiny_224", "vit_base_patch16"] {
        for mut model in models(name) {
            let expected = output(&model);
            let names: Vec<_> = model.state_dict().unwrap().into_iter().map(|(name, _)| name).collect();
            let whole: Vec<_> = model.params.iter().map(|(_, _, tensor)| tensor.copy()).collect();
            let sharding = Rc::new(Second::default());
            model.params.shard(Rc::clone(&sharding) as Rc<dyn Sharding>, Precision::Fp32).unwrap();
            assert!(model.params.is_sharded());
            for passes in 1..3 {
                assert_eq!(output(&model), expected, "{name}");
                assert_eq!(sharding.passes.get(), passes);
            }
            // Few blocks are there at a time, whatever their number.
            let units = sharding.units.borrow().len();
            assert!(units > 8 && sharding.most.get() <= 2, "{name}: {} of {units}", sharding.most.get());

            let state = model.state_dict().unwrap();
            for (((name_of, view), expected), whole) in state.iter().zip(names).zip(&whole) {
                assert_eq!(*name_of, expected);
                assert_eq!(view.to_tensor().unwrap(), whole.detach(), "{name_of}");
            }
            for ((id, spec, share), whole) in model.params.iter().zip(&whole) {
                let elements = spec.numel();
                let start = third(elements).min(elements);
                let expected = whole.detach().flatten(0, -1).narrow(0, start, share.size()[0]);
                assert_eq!(*share, expected, "{}", spec.name);
                assert_eq!(model.params.local(id).size().len(), 1);
            }
            // What is loaded goes into the share.
            let (id, doubled) = (model.params.id(&state[1].0).unwrap(), whole[1].detach() * 2.0);
            model.params.assign(id, &doubled).unwrap();
            let start = third(whole[1].numel() as i64).min(whole[1].numel() as i64);
            let length = model.params.local(id).size()[0];
            assert_eq!(*model.params.local(id), doubled.flatten(0, -1).narrow(0, start, length));
        }
    }
}

#[test]
fn in_reduced_precision_the_weights_of_products_travel_rounded() {
    for mut model in models("convnextv2_atto") {
        let sharding = Rc::new(Second::default());
        model.params.shard(Rc::clone(&sharding) as Rc<dyn Sharding>, Precision::Bf16).unwrap();
        let held = Precision::Bf16.product_kind(Device::Cpu);
        let units = sharding.units.borrow();
        for (whole, sent) in units.iter().flatten() {
            let product = whole.dim() > 1 && (whole.dim() == 2 || whole.size()[3] > 1 || whole.size()[1] > 1);
            let expected = if product { (Kind::BFloat16, held) } else { (Kind::Float, Kind::Float) };
            if whole.size().iter().filter(|side| **side > 1).count() > 1 {
                assert_eq!((sent.kind(), whole.kind()), expected, "{:?}", whole.size());
            }
        }
        drop(units);
        // It computes all the same, in fp32 too.
        assert_eq!(output(&model).kind(), Kind::Float);
    }
}

#[test]
#[should_panic(expected = "'head.weight' is read outside of the scope that gathers it")]
fn reading_outside_of_a_scope_is_a_defect() {
    let [_, mut model] = models("convnextv2_atto");
    let head = model.params.id("head.weight").unwrap();
    model.params.shard(Rc::new(Second::default()), Precision::Fp32).unwrap();
    model.params.get(head);
}
