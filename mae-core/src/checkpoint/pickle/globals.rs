//! Which `module.name` of a pickle means what.
//!
//! Nothing is ever called. A known constructor is replaced by code of this crate, an unknown class becomes
//! opaque data, and a name whose only use in a checkpoint is to run code makes the whole file refused.

use super::super::DType;

/// What a GLOBAL stands for.
#[derive(Clone, PartialEq)]
pub(super) enum Global {
    OrderedDict,
    Counter,
    RebuildTensor,
    RebuildTensorV2,
    RebuildParameter,
    RebuildFromType,
    /// `None`: untyped.
    Storage(Option<DType>),
    Size,
    Device,
    TorchDType(DType),
    CodecsEncode,
    /// `set`, `frozenset`.
    Set,
    List,
    Tuple,
    Dict,
    /// `bytes`, `bytearray`.
    Bytes,
    Reconstructor,
    NumpyScalar,
    NumpyReconstruct,
    NumpyFromBuffer,
    NumpyDType,
    /// Any other class or function: data.
    Other(String),
}

/// Built-in names that are plain data types; every other one is refused.
const HARMLESS_BUILTINS: [&str; 14] = [
    "object",
    "int",
    "long",
    "float",
    "complex",
    "bool",
    "str",
    "unicode",
    "slice",
    "range",
    "xrange",
    "type",
    "NotImplemented",
    "Ellipsis",
];

/// Modules of which nothing belongs in a checkpoint, with their submodules.
const REFUSED_MODULES: [&str; 68] = [
    "os",
    "posix",
    "nt",
    "posixpath",
    "ntpath",
    "subprocess",
    "_posixsubprocess",
    "commands",
    "popen2",
    "sys",
    "pty",
    "pickle",
    "_pickle",
    "cPickle",
    "dill",
    "cloudpickle",
    "joblib",
    "marshal",
    "shelve",
    "code",
    "codeop",
    "compileall",
    "py_compile",
    "runpy",
    "importlib",
    "imp",
    "pkgutil",
    "zipimport",
    "site",
    "ensurepip",
    "pip",
    "setuptools",
    "distutils",
    "venv",
    "idlelib",
    "lib2to3",
    "ctypes",
    "_ctypes",
    "cffi",
    "socket",
    "_socket",
    "ssl",
    "http",
    "httplib",
    "urllib",
    "urllib2",
    "requests",
    "aiohttp",
    "ftplib",
    "smtplib",
    "telnetlib",
    "xmlrpc",
    "webbrowser",
    "asyncio",
    "multiprocessing",
    "_thread",
    "threading",
    "shutil",
    "tempfile",
    "bdb",
    "pdb",
    "trace",
    "cProfile",
    "profile",
    "timeit",
    "doctest",
    "inspect",
    "gc",
];

/// Single functions that run code, in modules that are otherwise harmless.
const REFUSED_NAMES: [&str; 27] = [
    "operator.attrgetter",
    "operator.itemgetter",
    "operator.methodcaller",
    "_operator.attrgetter",
    "_operator.itemgetter",
    "_operator.methodcaller",
    "functools.reduce",
    "platform.popen",
    "torch.load",
    "torch.storage._load_from_bytes",
    "torch.serialization.load",
    "numpy.load",
    "numpy.testing._private.utils.runstring",
    "numpy.f2py.crackfortran.getlincoef",
    "pydoc.pipepager",
    "logging.config.listen",
    "io.open",
    "io.open_code",
    "io.FileIO",
    "_io.open",
    "_io.open_code",
    "_io.FileIO",
    "types.FunctionType",
    "types.CodeType",
    "types.MethodType",
    "types.LambdaType",
    "types.new_class",
];

/// Prefixes of names that run code.
const REFUSED_PREFIXES: [&str; 6] = [
    "torch.hub",
    "torch.utils.cpp_extension",
    "torch.jit",
    "torch.package",
    "torch.distributed.rpc",
    "torch.ops",
];

/// Looks a name up; `Err` when the file must be refused.
pub(super) fn resolve(module: &str, name: &str) -> Result<Global, ()> {
    // NumPy 1 writes numpy.core, NumPy 2 numpy._core.
    let numpy = module.strip_prefix("numpy._core").or_else(|| module.strip_prefix("numpy.core"));
    let global = match (module, name) {
        ("collections", "OrderedDict") => Global::OrderedDict,
        ("collections", "Counter") => Global::Counter,
        ("torch._utils", "_rebuild_tensor") => Global::RebuildTensor,
        ("torch._utils", "_rebuild_tensor_v2") => Global::RebuildTensorV2,
        ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => Global::RebuildParameter,
        ("torch._tensor", "_rebuild_from_type" | "_rebuild_from_type_v2") => Global::RebuildFromType,
        ("torch", "Size") => Global::Size,
        ("torch", "device") => Global::Device,
        ("torch" | "torch.storage", "UntypedStorage") => Global::Storage(None),
        ("torch" | "torch.cuda", class) if DType::from_storage_class(class).is_some() => {
            Global::Storage(DType::from_storage_class(class))
        }
        ("torch", dtype) if DType::from_name(dtype).is_some() => match DType::from_name(dtype) {
            Some(dtype) => Global::TorchDType(dtype),
            None => return Err(()),
        },
        ("_codecs", "encode") => Global::CodecsEncode,
        ("builtins" | "__builtin__", builtin) => match builtin {
            "set" | "frozenset" => Global::Set,
            "list" => Global::List,
            "tuple" => Global::Tuple,
            "dict" => Global::Dict,
            "bytes" | "bytearray" => Global::Bytes,
            harmless if HARMLESS_BUILTINS.contains(&harmless) => {
                Global::Other(format!("builtins.{harmless}"))
            }
            _ => return Err(()),
        },
        ("copy_reg" | "copyreg", "_reconstructor") => Global::Reconstructor,
        ("numpy", "dtype") => Global::NumpyDType,
        (_, "scalar") if numpy == Some(".multiarray") => Global::NumpyScalar,
        (_, "_reconstruct") if numpy == Some(".multiarray") => Global::NumpyReconstruct,
        (_, "_frombuffer") if numpy == Some(".numeric") => Global::NumpyFromBuffer,
        _ => {
            let class = format!("{module}.{name}");
            if is_refused(module, &class) {
                return Err(());
            }
            Global::Other(class)
        }
    };
    Ok(global)
}

fn is_refused(module: &str, class: &str) -> bool {
    let top = module.split('.').next().unwrap_or(module);
    // A dotted name reaches through a module to its imports: `numpy.os.system`, or STACK_GLOBAL's
    // ("torch", "os.system").
    let reaches_through = class.split('.').skip(1).any(|part| {
        matches!(
            part,
            "os" | "posix" | "nt" | "sys" | "subprocess" | "builtins" | "__builtins__" | "__globals__"
        ) || matches!(
            part,
            "eval" | "exec" | "system" | "popen" | "__import__" | "__reduce__" | "__getattribute__"
        )
    });
    REFUSED_MODULES.contains(&top)
        || reaches_through
        || REFUSED_NAMES.contains(&class)
        || REFUSED_PREFIXES.iter().any(|prefix| class.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_run_code_are_refused() {
        for (module, name) in [
            ("os", "system"),
            ("posix", "system"),
            ("builtins", "eval"),
            ("__builtin__", "getattr"),
            ("builtins", "open"),
            ("subprocess", "Popen"),
            ("numpy", "os.system"),
            ("torch.hub", "load"),
            ("torch", "storage._load_from_bytes"),
            ("importlib.util", "module_from_spec"),
            ("functools", "reduce"),
        ] {
            assert!(resolve(module, name).is_err(), "{module}.{name}");
        }
    }

    #[test]
    fn data_classes_are_not() {
        for (module, name) in [
            ("argparse", "Namespace"),
            ("omegaconf.dictconfig", "DictConfig"),
            ("pathlib", "PosixPath"),
            ("collections", "defaultdict"),
            ("typing", "Any"),
            ("functools", "partial"),
            ("torch._utils", "_rebuild_qtensor"),
            ("torch", "QInt8Storage"),
            ("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint"),
        ] {
            assert!(matches!(resolve(module, name), Ok(Global::Other(_))), "{module}.{name}");
        }
    }
}
