//! SoftHSM2, a PKCS#11 token in software: the library's own tests of keys in it, and `spiffe ca` with its keys there.

use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use std::io::Write;

use tempfile::TempDir;

use crate::Check;
use crate::lab::{Lab, program, short_temporary_folder};
use crate::openssl;
use crate::outcome::{Trouble, ensure};
use crate::process::{Finished, Process};
use crate::world::SOON;

pub(crate) const CASES: &[(&str, Check)] = &[
    ("softhsm-library", the_library_keeps_keys_in_a_token),
    ("softhsm-tool", a_ca_finds_its_keys_in_a_token_again),
];

fn the_library_keeps_keys_in_a_token(lab: &Lab) -> Result<(), Trouble> {
    let token = Token::new()?;
    let mut test = lab.cargo(&[
        "test",
        "--quiet",
        "--package=spiffe-svid-ca",
        "--features=pkcs11",
        "--test=softhsm",
        "--",
        // One test ends the sessions of the whole process.
        "--test-threads=1",
    ])?;
    test.env("SOFTHSM2_CONF", token.configuration())
        .env("SPIFFE_TEST_MODULE", &token.module)
        .env("SPIFFE_TEST_TOKEN", token.uri());
    Process::run("cargo test --test softhsm", test, A_BUILD)?
        .expect_success()?
        .expect_mention("test result: ok. 8 passed")?;
    Ok(())
}

fn a_ca_finds_its_keys_in_a_token_again(lab: &Lab) -> Result<(), Trouble> {
    let token = Token::new()?;
    let state = token.folder.path().join("state");
    let out = token.folder.path().join("out");
    let ca = |arguments: &[&str]| -> Result<Finished, Trouble> {
        let mut command = lab.ours()?.ca(&state, arguments);
        command
            .env("SOFTHSM2_CONF", token.configuration())
            .current_dir(token.folder.path());
        Process::run("spiffe ca", command, SOON)
    };
    let uri = token.uri();
    ca(&["init", "example.org", "--keys", &uri, "--dry-run"])?.expect_success()?;
    ensure(!state.exists(), || "a dry run has made a directory".into())?;
    ca(&["init", "example.org", "--keys", &uri])?.expect_success()?;
    ensure(!state.join("keys.json").exists(), || {
        "keys lie in a file, not in the token".into()
    })?;

    // Each of these is another process, which finds the keys by the journal.
    let issue = |id: &str| {
        let to = out.display().to_string();
        ca(&["issue", id, "--out", &to, "--force"])?.expect_success()?;
        openssl::verify_strictly(&out.join("bundle.pem"), &out.join("svid.pem"))
    };
    issue("spiffe://example.org/web")?;
    ca(&["rotate", "--force", "--dry-run"])?.expect_success()?;
    issue("spiffe://example.org/web")?;
    ca(&["rotate", "--force"])?.expect_success()?;
    issue("spiffe://example.org/db")?;

    // A second CA of the same name would take the first one's keys.
    let other = token.folder.path().join("other").display().to_string();
    ca(&["init", "example.org", "--keys", &uri, "--state", &other])?
        .expect_refusal()?
        .expect_mention("holds keys of the same names already")?;
    // One of another name has its own beside them.
    let third = token.folder.path().join("third").display().to_string();
    ca(&["init", "other.example", "--keys", &uri, "--state", &third])?.expect_success()?;
    issue("spiffe://example.org/web")?;

    let wrong = uri.replace("pin-source=", "pin-value=wr0ng&x=");
    let wrong = wrong.split("&x=").next().unwrap_or_default();
    let refused = ca(&["issue", "spiffe://example.org/x", "--keys", wrong])?
        .expect_refusal()?
        .expect_mention("refuses the PIN")?;
    ensure(!refused.mentions("wr0ng"), || {
        "a message holds the PIN".into()
    })
}

/// A token of its own, in a private folder.
struct Token {
    folder: TempDir,
    module: PathBuf,
}

impl Token {
    fn new() -> Result<Self, Trouble> {
        let tool = program("softhsm2-util", "softhsm2")?;
        let module = MODULES
            .into_iter()
            .map(PathBuf::from)
            .find(|file| file.exists());
        let module = module.ok_or_else(|| {
            Trouble::Missing(format!(
                "softhsm2 has brought none of {}",
                MODULES.join(", ")
            ))
        })?;
        let folder = short_temporary_folder()?;
        let token = Self { folder, module };
        fs::create_dir(token.folder.path().join("tokens"))?;
        let configuration = format!(
            "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n",
            token.folder.path().join("tokens").display()
        );
        fs::write(token.configuration(), configuration)?;
        let mut pin = fs::OpenOptions::new();
        let mut pin = pin
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(token.pin())?;
        writeln!(pin, "{PIN}")?;
        let mut init = Command::new(tool);
        init.args(["--init-token", "--free", "--label", "ca"])
            .args(["--so-pin", "87654321", "--pin", PIN])
            .env("SOFTHSM2_CONF", token.configuration());
        Process::run("softhsm2-util", init, SOON)?.expect_success()?;
        Ok(token)
    }

    fn configuration(&self) -> PathBuf {
        self.folder.path().join("softhsm2.conf")
    }

    fn pin(&self) -> PathBuf {
        self.folder.path().join("pin")
    }

    fn uri(&self) -> String {
        format!(
            "pkcs11:token=ca?module-path={}&pin-source=file:{}",
            display(&self.module),
            display(&self.pin())
        )
    }
}

fn display(path: &Path) -> String {
    path.display().to_string()
}

const PIN: &str = "1234abcd";

/// Where distributions put it.
const MODULES: [&str; 4] = [
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
];

const A_BUILD: Duration = Duration::from_secs(15 * 60);
