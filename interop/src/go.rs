//! go-spiffe, the reference implementation, as client and as server of ours, and as judge of what we issue. The program is in `go/`.

use std::path::Path;
use std::process::Command;

use crate::Check;
use crate::lab::Lab;
use crate::ours::{self, Entry};
use crate::outcome::{Trouble, ensure};
use crate::process::{Finished, Process};
use crate::world::{
    ANYONE_HERE, CLIENT, NOBODY, PEER, ROTATING, SERVER, SERVER_NAME, SOON, TRUST_DOMAIN, World,
};

pub(crate) const CASES: &[(&str, Check)] = &[
    ("go-x509", two_svids_are_fetched_and_verify),
    ("go-no-identity", a_caller_without_entry_is_refused),
    ("go-client", go_dials_our_server),
    ("go-server", our_client_dials_go),
    ("go-jwt", jwt_svids_are_judged_here_and_there),
    ("go-watch", a_watcher_sees_rotations),
    (
        "go-across-rotations",
        no_handshake_fails_while_both_sides_rotate,
    ),
];

/// The entries of a trust domain with our server, our client and the Go peer in it, each with its own identity.
pub(crate) fn entries(lab: &Lab) -> Result<Vec<Entry>, Trouble> {
    let ours = lab.ours()?;
    Ok(vec![
        Entry::for_program(SERVER, lab.uid, ours.server_path()).with_dns(SERVER_NAME),
        Entry::for_program(CLIENT, lab.uid, ours.client_path()),
        Entry::for_program(PEER, lab.uid, lab.go_peer()?.to_owned()),
    ])
}

/// Has the Go peer write its SVID and bundle to `folder`, for programs that take files.
///
/// # Errors
///
/// When it cannot fetch them.
pub(crate) fn write_files(lab: &Lab, world: &World<'_>, folder: &Path) -> Result<(), Trouble> {
    let mut command = command(lab, world, &["write"])?;
    command.arg(folder);
    Process::run("gopeer write", command, SOON)?
        .expect_success()?
        .expect_line(&format!("wrote {PEER}"))?;
    Ok(())
}

fn two_svids_are_fetched_and_verify(lab: &Lab) -> Result<(), Trouble> {
    let second = format!("{PEER}/second");
    let mut entries = entries(lab)?;
    entries.push(Entry::for_program(
        &second,
        lab.uid,
        lab.go_peer()?.to_owned(),
    ));
    World::with(lab, &entries, |world| {
        let fetched = run(lab, world, &["x509"])?.expect_success()?;
        let mut ids: Vec<&str> = fetched.facts("svid").filter_map(first_word).collect();
        ids.sort_unstable();
        ensure(ids == [PEER, second.as_str()], || {
            format!("SVIDs of {ids:?} were fetched")
        })?;
        let bundles: Vec<&str> = fetched.facts("bundle").filter_map(first_word).collect();
        ensure(bundles == [TRUST_DOMAIN], || {
            format!("bundles of {bundles:?} were fetched")
        })
    })
}

fn a_caller_without_entry_is_refused(lab: &Lab) -> Result<(), Trouble> {
    let server_only = &entries(lab)?[..1];
    World::with(lab, server_only, |world| {
        run(lab, world, &["x509"])?
            .expect_refusal()?
            .expect_line("refused PermissionDenied")?
            .expect_mention("no identity issued")?;
        Ok(())
    })
}

fn go_dials_our_server(lab: &Lab) -> Result<(), Trouble> {
    World::with(lab, &entries(lab)?, |world| dials_our_server(lab, world))
}

/// go-spiffe as a client of our server, and what either refuses.
///
/// # Errors
///
/// When one of them accepts or refuses what it should not.
pub(crate) fn dials_our_server(lab: &Lab, world: &World<'_>) -> Result<(), Trouble> {
    let only_the_peer = format!("id:{PEER}");
    let mut server = world.server(&only_the_peer)?;

    run(lab, world, &["dial", &server.address, NOBODY])?
        .expect_refusal()?
        .expect_mention(&format!("unexpected ID \"{SERVER}\""))?;

    // The same server goes on serving those who do want it.
    run(lab, world, &["dial", &server.address, SERVER])?
        .expect_success()?
        .expect_line(&format!("peer {SERVER}"))?
        .expect_line(&format!("answer {}", ours::greeting(PEER)))?;
    server.process.wait_for_mention(PEER, SOON)?;

    let mut strict = world.server(&format!("id:{NOBODY}"))?;
    let refused = run(lab, world, &["dial", &strict.address, SERVER])?.expect_refusal()?;
    ensure(!refused.mentions(&ours::greeting(PEER)), || {
        refused.describe("was refused and yet answered:")
    })?;
    strict.process.wait_for_mention(PEER, SOON)?;
    Ok(())
}

fn our_client_dials_go(lab: &Lab) -> Result<(), Trouble> {
    World::with(lab, &entries(lab)?, |world| is_dialled_by_ours(lab, world))
}

/// Our client and go-spiffe as its server, and what either refuses.
///
/// # Errors
///
/// When one of them accepts or refuses what it should not.
pub(crate) fn is_dialled_by_ours(lab: &Lab, world: &World<'_>) -> Result<(), Trouble> {
    let (mut server, address) = serve(lab, world, CLIENT)?;
    world
        .client(&address, &format!("id:{PEER}"))?
        .expect_success()?
        .expect_mention(PEER)?;
    let greeted = format!("greeted {CLIENT} hello");
    server.wait_for_stdout(&greeted, SOON, |line| (line == greeted).then_some(()))?;

    world
        .client(&address, &format!("id:{NOBODY}"))?
        .expect_refusal()?
        .expect_mention(PEER)?;
    server.wait_for_mention("refused remote error: tls:", SOON)?;

    let (mut strict, address) = serve(lab, world, NOBODY)?;
    world
        .client(&address, &format!("id:{PEER}"))?
        .expect_refusal()?
        // Under TLS 1.3 the client's own handshake is complete by then: the alert is what tells it.
        .expect_mention("alert")?;
    strict.wait_for_mention(&format!("unexpected ID \"{CLIENT}\""), SOON)?;
    Ok(())
}

fn jwt_svids_are_judged_here_and_there(lab: &Lab) -> Result<(), Trouble> {
    World::with(lab, &entries(lab)?, |world| {
        run(
            lab,
            world,
            &["jwt", "orders.example.org", "payments.example.org"],
        )?
        .expect_success()?
        .expect_line(&format!("jwt {PEER} orders.example.org"))?
        .expect_line(&format!("here good accepted {PEER}"))?
        .expect_line(&format!("there good accepted {PEER}"))?
        .expect_mention("here other-audience refused")?
        .expect_mention("there other-audience refused InvalidArgument")?
        .expect_mention("here forged refused")?
        .expect_mention("there forged refused InvalidArgument")?;
        Ok(())
    })
}

fn a_watcher_sees_rotations(lab: &Lab) -> Result<(), Trouble> {
    World::with(lab, &rotating_entries(lab)?, |world| {
        let watched = run(lab, world, &["watch", "3"])?.expect_success()?;
        check_updates(&watched, 3)
    })
}

/// `updates` lines of "id serial expiry", as both the Go and the Python watcher print them: another serial each time, later and later expiry.
///
/// # Errors
///
/// When they are not so.
pub(crate) fn check_updates(watched: &Finished, updates: usize) -> Result<(), Trouble> {
    let mut serials = Vec::new();
    let mut expiries = Vec::new();
    for fact in watched.facts("update") {
        let words: Vec<&str> = fact.split(' ').collect();
        let [id, serial, expiry] = words[..] else {
            return Err(Trouble::Failed(format!("`{fact}` is no update")));
        };
        ensure(id == PEER, || format!("an update is for {id}"))?;
        ensure(!serials.contains(&serial), || {
            format!("serial number {serial} came twice")
        })?;
        serials.push(serial);
        let expiry: i64 = expiry
            .parse()
            .map_err(|error| Trouble::Failed(format!("`{fact}`: {error}")))?;
        expiries.push(expiry);
    }
    ensure(serials.len() == updates, || {
        format!("{} updates were seen", serials.len())
    })?;
    ensure(expiries.is_sorted_by(|a, b| a < b), || {
        format!("the SVIDs expire at {expiries:?}, not later and later")
    })
}

fn no_handshake_fails_while_both_sides_rotate(lab: &Lab) -> Result<(), Trouble> {
    World::with(lab, &rotating_entries(lab)?, |world| {
        let server = world.server(ANYONE_HERE)?;
        let dialled =
            run(lab, world, &["dial-across", "3", &server.address, SERVER])?.expect_success()?;
        let handshakes: usize = dialled
            .facts("handshakes")
            .find_map(|count| count.parse().ok())
            .unwrap_or(0);
        ensure(handshakes >= 3, || {
            format!("{handshakes} handshakes across 3 SVIDs")
        })
    })
}

fn rotating_entries(lab: &Lab) -> Result<Vec<Entry>, Trouble> {
    Ok(entries(lab)?
        .into_iter()
        .map(|entry| entry.with_ttl(ROTATING))
        .collect())
}

fn serve(lab: &Lab, world: &World<'_>, client: &str) -> Result<(Process, String), Trouble> {
    let mut server = Process::spawn("gopeer serve", command(lab, world, &["serve", client])?)?;
    let address = server.wait_for_stdout("where it listens", SOON, ours::listening_address)?;
    Ok((server, address))
}

/// Runs the Go peer to its end.
///
/// # Errors
///
/// When it cannot be built or does not end. Its verdict is the caller's to judge.
pub(crate) fn run(lab: &Lab, world: &World<'_>, arguments: &[&str]) -> Result<Finished, Trouble> {
    let name = format!("gopeer {}", arguments[0]);
    // The peer gives up by itself after as long; its own message is the better one.
    Process::run(&name, command(lab, world, arguments)?, SOON + SOON)
}

/// The Go peer as a workload of this trust domain.
///
/// # Errors
///
/// When it cannot be built.
pub(crate) fn command(
    lab: &Lab,
    world: &World<'_>,
    arguments: &[&str],
) -> Result<Command, Trouble> {
    let mut command = Command::new(lab.go_peer()?);
    command.args(arguments);
    Ok(world.workload(command))
}

fn first_word(text: &str) -> Option<&str> {
    text.split(' ').next()
}
