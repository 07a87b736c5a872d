//! py-spiffe, and with it gRPC's C core, which puts the socket's path into `:authority`; and cryptography's own path
//! builder as judge of the chains. The program is in `python/`.

use std::path::Path;
use std::process::Command;

use crate::Check;
use crate::go::check_updates;
use crate::lab::Lab;
use crate::ours::Entry;
use crate::outcome::{Trouble, ensure};
use crate::process::{Finished, Process};
use crate::world::{PEER, ROTATING, SOON, TRUST_DOMAIN, World};

pub(crate) const CASES: &[(&str, Check)] = &[
    ("python-x509", x509_svids_bundles_and_context_are_fetched),
    ("python-chain", another_path_builder_agrees),
    ("python-jwt", jwt_svids_are_judged_here_and_there),
    ("python-watch", a_watcher_sees_rotations),
    ("python-no-identity", a_caller_without_entry_is_refused),
];

fn x509_svids_bundles_and_context_are_fetched(lab: &Lab) -> Result<(), Trouble> {
    let second = format!("{PEER}/second");
    let entries = [
        Entry::for_user(PEER, lab.uid),
        Entry::for_user(&second, lab.uid),
    ];
    World::with(lab, &entries, |world| {
        let fetched = run(lab, world, &["x509"])?.expect_success()?;
        let mut ids: Vec<&str> = fetched
            .facts("svid")
            .filter_map(|fact| fact.split(' ').next())
            .collect();
        ids.sort_unstable();
        ensure(ids == [PEER, second.as_str()], || {
            format!("SVIDs of {ids:?} were fetched")
        })?;
        let Some(default) = fetched.facts("default").next().map(str::to_owned) else {
            return Err(Trouble::failed("there is no default SVID"));
        };
        fetched
            .expect_line(&format!("context {default} 2 1"))?
            .expect_line(&format!("source {default} 1"))?
            .expect_mention(&format!("bundle {TRUST_DOMAIN} "))?;
        Ok(())
    })
}

fn another_path_builder_agrees(lab: &Lab) -> Result<(), Trouble> {
    World::with(lab, &[Entry::for_user(PEER, lab.uid)], |world| {
        run(lab, world, &["chain"])?
            .expect_success()?
            .expect_line(&format!("verified {PEER}"))?
            .expect_mention("forged refused")?;
        Ok(())
    })
}

fn jwt_svids_are_judged_here_and_there(lab: &Lab) -> Result<(), Trouble> {
    World::with(lab, &[Entry::for_user(PEER, lab.uid)], |world| {
        run(
            lab,
            world,
            &["jwt", "orders.example.org", "payments.example.org"],
        )?
        .expect_success()?
        .expect_line(&format!("jwt {PEER} orders.example.org"))?
        .expect_line(&format!("here good accepted {PEER}"))?
        .expect_line(&format!("there good accepted {PEER}"))?
        .expect_line(&format!("source {PEER}"))?
        .expect_mention("here other-audience refused")?
        .expect_mention("there other-audience refused ValidateJwtSvidError")?
        .expect_mention("here forged refused")?
        .expect_mention("there forged refused ValidateJwtSvidError")?;
        Ok(())
    })
}

fn a_watcher_sees_rotations(lab: &Lab) -> Result<(), Trouble> {
    let entry = Entry::for_user(PEER, lab.uid).with_ttl(ROTATING);
    World::with(lab, &[entry], |world| {
        let watched = run(lab, world, &["watch", "3"])?.expect_success()?;
        check_updates(&watched, 3)
    })
}

fn a_caller_without_entry_is_refused(lab: &Lab) -> Result<(), Trouble> {
    // An identity there is, but for our server only.
    let entry = Entry::for_program(PEER, lab.uid, lab.ours()?.server_path());
    World::with(lab, &[entry], |world| {
        run(lab, world, &["x509"])?
            .expect_refusal()?
            .expect_mention("PERMISSION_DENIED")?
            .expect_mention("no identity issued")?;
        Ok(())
    })
}

fn run(lab: &Lab, world: &World<'_>, arguments: &[&str]) -> Result<Finished, Trouble> {
    let mut command = Command::new(lab.python()?);
    command
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("python/pypeer.py"))
        .args(arguments);
    let name = format!("pypeer {}", arguments[0]);
    Process::run(&name, world.workload(command), SOON + SOON)
}
