//! Several machines: what the orchestrator's environment says about them, put over the spec.

use super::compose::Composed;
use super::error::Origin;
use super::plan::Action;
use super::value::{Node, Value};

impl Composed {
    /// Sets the action's `num_nodes`, and `num_gpus` with `gpu_ids` when `gpus` is known, as `WORLD_SIZE` and
    /// `NUM_GPU_PER_NODE` ask. They win over the spec and the command line, as in TAO; the spec file is not touched.
    ///
    /// Export and the building of an engine run in one process, whatever the environment says.
    pub fn use_nodes(&mut self, action: Action, nodes: usize, gpus: Option<usize>) {
        if matches!(action, Action::Export | Action::GenTrtEngine) {
            return;
        }
        let section = action.name();
        let origin = |name| Origin::Variable { name };
        self.set(&format!("{section}.num_nodes"), Value::Int(nodes as i128), origin("WORLD_SIZE"));
        if let Some(gpus) = gpus {
            let origin = origin("NUM_GPU_PER_NODE");
            // More than the schema allows is refused with the other bounds.
            let ids =
                (0..gpus.min(1024)).map(|id| Node::new(Value::Int(id as i128), origin.clone())).collect();
            self.set(&format!("{section}.num_gpus"), Value::Int(gpus as i128), origin.clone());
            self.set(&format!("{section}.gpu_ids"), Value::List(ids), origin);
        }
        self.notes.push(
            "[Multinode] Overriding configs (num_nodes, num_gpus, gpu_ids) with environment variables."
                .to_owned(),
        );
    }
}
