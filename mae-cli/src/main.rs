//! `mae`: see the library for what it does.

use mae_cli::args::{self, Request};
use mae_cli::spec::interpolation::Context;
use mae_cli::spec::{self, Plan};
use std::io::Write as _;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments = match args::parse(std::env::args_os()) {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(u8::from(error.use_stderr()));
        }
    };
    match run(arguments) {
        Ok(text) => {
            let _ = writeln!(std::io::stdout(), "{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: {error}");
            ExitCode::from(1)
        }
    }
}

fn run(arguments: args::Args) -> spec::Result<String> {
    match arguments.request()? {
        Request::DefaultSpecs { overrides } => {
            let path = spec::write_default_specs(&overrides)?;
            Ok(format!("Default specification file for mae generated at '{}'", path.display()))
        }
        Request::Show { action, spec, overrides, resolve, package } => {
            let composed = spec::compose(Some(&spec), &overrides)?;
            let spec_name =
                spec.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
            let env = |name: &str| std::env::var(name).ok();
            let context = Context { env: &env, spec_name: &spec_name, action: action.name() };
            composed.show(resolve.then_some(&context), package.as_deref())
        }
        Request::Run { action, spec, overrides } => {
            let plan = Plan::load(&spec, &overrides, action)?;
            Ok(plan.to_yaml())
        }
    }
}
