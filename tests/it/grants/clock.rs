//! A clock that is ten years off, ahead or behind, while the daemon runs and when it starts.

use std::time::{Duration, SystemTime};

use super::bench::{Bench, look};

const TEN_YEARS: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// Ahead and behind.
fn wrong() -> [SystemTime; 2] {
    [SystemTime::now() + TEN_YEARS, SystemTime::now() - TEN_YEARS]
}

#[tokio::test]
async fn a_clock_that_jumps_ten_years_and_back_costs_a_renewal_each_at_most_and_no_grant() {
    for off in wrong() {
        let bench = Bench::new().await;
        let running = bench.start().await;
        bench.sign_in(&running).await;
        for (jumps, now) in [SystemTime::now(), off, SystemTime::now(), off, SystemTime::now()].into_iter().enumerate() {
            bench.clock.set(now);
            bench.serve(&running).await;
            assert!(bench.host.refreshes_asked() <= jumps, "{} after {jumps} jumps", bench.host.refreshes_asked());
        }
        assert_eq!((bench.host.replays(), running.degraded()), (0, Vec::new()));
        assert_eq!(bench.store.only(), (bench.host.newest_refresh(), false));
    }
}

#[tokio::test]
async fn a_start_with_a_clock_ten_years_off_costs_one_renewal_and_no_grant() {
    for off in wrong() {
        let bench = Bench::new().await;
        let running = bench.start().await;
        bench.sign_in(&running).await;
        for (starts, now) in [off, SystemTime::now(), off, SystemTime::now()].into_iter().enumerate() {
            bench.clock.set(now);
            let running = bench.start().await;
            let token = bench.serve(&running).await;
            assert_eq!(token, format!("access_{}", starts + 2));
            assert_eq!((bench.host.refreshes_asked(), bench.host.replays()), (starts + 1, 0));
            assert_eq!(running.degraded(), Vec::<String>::new());
        }
    }
}

#[tokio::test]
async fn a_sign_in_under_a_wrong_clock_serves_and_outlives_its_correction() {
    for off in wrong() {
        let bench = Bench::new().await;
        bench.clock.set(off);
        let running = bench.start().await;
        bench.sign_in(&running).await;
        assert_eq!(bench.serve(&running).await, "access_1");
        bench.clock.set(SystemTime::now());
        look().await;
        bench.serve(&running).await;
        assert!(bench.host.refreshes_asked() <= 1 && bench.host.replays() == 0);
    }
}
