//! Timing: what is compared runs in turns in one thread, and its CPU time is counted, not the wall's.
//!
//! Wall clock is noisy by a fifth on a shared machine. CPU time still follows the processor's frequency and its
//! neighbours' use of the caches, so the contenders take turns in short batches, and of each the fastest quarter of
//! its batches counts: what disturbs one of them disturbs the next as well, and falls out.

use std::hint::black_box;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// Something measured: runs so many times in a row.
pub(crate) type Contender<'a> = Box<dyn FnMut(u64) + 'a>;

/// Makes a contender of one operation; the loop is compiled with it, so that nanoseconds can be told apart.
pub(crate) fn contender<'a, T>(mut operation: impl FnMut() -> T + 'a) -> Contender<'a> {
    Box::new(move |times| {
        for _ in 0..times {
            black_box(operation());
        }
    })
}

/// Nanoseconds of CPU time that each contender's operation takes, all measured in turns for `span`.
pub(crate) fn in_turns<const N: usize>(
    span: Duration,
    mut contenders: [Contender<'_>; N],
) -> [f64; N] {
    let times = contenders.each_mut().map(calibrate);
    let mut batches = [const { Vec::new() }; N];
    let begin = Instant::now();
    let mut round = 0;
    while begin.elapsed() < span || round < MIN_ROUNDS {
        for turn in 0..N {
            // Nobody always runs behind the same neighbour.
            let who = if round % 2 == 0 { turn } else { N - 1 - turn };
            let took = cpu_time(&mut contenders[who], times[who]);
            batches[who].push(took.as_nanos() as f64 / times[who] as f64);
        }
        round += 1;
    }
    batches.map(fastest_quarter)
}

/// The given quantile, from 0 to 1, of the samples.
pub(crate) fn quantile(samples: &mut [f64], quantile: f64) -> f64 {
    samples.sort_by(f64::total_cmp);
    let last = samples.len().saturating_sub(1);
    samples
        .get((quantile * last as f64).round() as usize)
        .copied()
        .unwrap_or(f64::NAN)
}

/// How many runs make a batch long enough that reading the clock does not count.
fn calibrate(contender: &mut Contender<'_>) -> u64 {
    let mut times = 1;
    loop {
        let took = cpu_time(contender, times);
        if took >= MIN_BATCH {
            return times;
        }
        times *= 2;
    }
}

fn cpu_time(contender: &mut Contender<'_>, times: u64) -> Duration {
    let begin = thread_cpu_time();
    contender(times);
    thread_cpu_time() - begin
}

fn thread_cpu_time() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    // A thread's CPU time counts from its start, so neither field is negative.
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs() as u32)
}

fn fastest_quarter(mut batches: Vec<f64>) -> f64 {
    batches.sort_by(f64::total_cmp);
    let quarter = batches.len().div_ceil(4);
    batches[..quarter].iter().sum::<f64>() / quarter as f64
}

/// Reading the clock of a thread is a system call of some 200 ns: a thousandth of this.
const MIN_BATCH: Duration = Duration::from_micros(250);

/// However slow the operation.
const MIN_ROUNDS: usize = 8;
