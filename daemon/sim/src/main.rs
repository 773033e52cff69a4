//! Runs simulated clusters, seed after seed, until one does what must not be.

use clap::Parser;
use konsul_sim::{Mutant, Options, run};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Simulates clusters of Konsul, a seed each; ends with 1 when something that must hold did not.
#[derive(Parser)]
#[command(version, after_help = "A run with one seed is the same every time: konsul-sim --seed 4711 --count 1 --show")]
struct Args {
    /// The first seed
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many seeds
    #[arg(long, default_value_t = 1000)]
    count: u64,
    /// Simulated seconds in which things go wrong
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// What is broken on purpose
    #[arg(long, value_enum, default_value_t = Mutant::None)]
    mutant: Mutant,
    /// Print the last events of every run
    #[arg(long)]
    show: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let options = Options { time: Duration::from_secs(args.seconds), mutant: args.mutant };
    let began = Instant::now();
    let (mut writes, mut reads, mut leaders) = (0, 0, 0);
    for seed in args.seed..args.seed.saturating_add(args.count) {
        let report = match run(seed, options) {
            Ok(report) => report,
            Err(error) => {
                eprintln!("konsul-sim: seed {seed}: {error}");
                return ExitCode::from(2);
            }
        };
        writes += report.writes;
        reads += report.reads;
        leaders += report.leaders;
        if args.show || report.violation.is_some() {
            report.tail.iter().for_each(|line| println!("{line}"));
        }
        if let Some(violation) = report.violation {
            println!("seed {seed}: {} after {:?}: {}", violation.invariant, violation.at, violation.what);
            println!("again: konsul-sim --seed {seed} --count 1 --seconds {} --show", args.seconds);
            return ExitCode::FAILURE;
        }
    }
    println!(
        "{} runs of {} s each in {:.1} s: {writes} writes, {reads} reads, {leaders} leaders; all that must hold held",
        args.count,
        args.seconds,
        began.elapsed().as_secs_f64()
    );
    ExitCode::SUCCESS
}
