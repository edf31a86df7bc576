//! Which options fit together, and that each misfit says what to change.

use super::*;

fn options() -> Options {
    Options {
        name: "rt0".parse().unwrap(),
        addresses: vec!["10.7.0.1/24".parse().unwrap()],
        listen: vec!["0.0.0.0:51820".parse().unwrap()],
        peer: "192.0.2.2:51820".parse().unwrap(),
        encap: Some(Encap::Plain),
        mtu: None,
        workers: Workers::Auto,
        io: IoChoice::Auto,
        tuning: Tuning::default(),
    }
}

fn plan(change: impl FnOnce(&mut Options)) -> Result<Plan, PlanError> {
    let mut options = options();
    change(&mut options);
    Plan::new(options, &[0, 1, 5])
}

#[test]
fn the_usual_options_make_a_plan() {
    let plan = plan(|_| {}).unwrap();
    assert_eq!(plan.cpus, [None; 3]);
    assert_eq!(plan.peer, Some("192.0.2.2:51820".parse().unwrap()));
    assert_eq!(plan.listen.len(), 1);
}

#[test]
fn encap_must_be_said() {
    let error = plan(|options| options.encap = None).unwrap_err();
    assert_eq!(error, PlanError::EncapMissing);
    assert!(error.to_string().contains("--encap plain"));
}

#[test]
fn a_port_listens_on_both_families_and_only_ipv4_is_required() {
    let plan = plan(|options| options.listen = vec![Listen::Port(7)]).unwrap();
    let at: Vec<_> = plan.listen.iter().map(|at| (at.address.to_string(), at.required)).collect();
    assert_eq!(at, [("0.0.0.0:7".to_owned(), true), ("[::]:7".to_owned(), false)]);
}

#[test]
fn one_listen_a_family() {
    let both = ["0.0.0.0:1", "[::]:2"].map(|text| text.parse().unwrap());
    assert!(plan(|options| options.listen = both.to_vec()).is_ok());
    let twice = ["0.0.0.0:1", "10.0.0.1:2"].map(|text| text.parse().unwrap());
    let error = plan(|options| options.listen = twice.to_vec()).unwrap_err();
    assert!(error.to_string().contains("twice for IPv4"), "{error}");
    let overlapping = ["[::1]:1", "2"].map(|text| text.parse().unwrap());
    let error = plan(|options| options.listen = overlapping.to_vec()).unwrap_err();
    assert!(error.to_string().contains("twice for IPv6"), "{error}");
}

#[test]
fn the_peers_family_must_be_listened_on() {
    let error = plan(|options| options.peer = "[2001:db8::2]:51820".parse().unwrap()).unwrap_err();
    assert!(error.to_string().contains("--listen [::]:51820"), "{error}");
}

#[test]
fn the_peer_is_not_this_end() {
    let error = plan(|options| {
        options.listen = vec!["192.0.2.2:51820".parse().unwrap()];
    })
    .unwrap_err();
    assert!(matches!(error, PlanError::PeerIsSelf { .. }));
}

#[test]
fn addresses_are_not_repeated() {
    let twice = ["10.7.0.1/24", "10.7.0.1/16"].map(|text| text.parse().unwrap());
    let error = plan(|options| options.addresses = twice.to_vec()).unwrap_err();
    assert!(matches!(error, PlanError::AddressTwice { .. }));
    assert!(plan(|options| options.addresses = Vec::new()).is_ok());
}

#[test]
fn mtu_range() {
    for good in [576, 1472, 65_507] {
        assert!(plan(|options| options.mtu = Some(good)).is_ok(), "{good}");
    }
    for bad in [0, 575, 65_508, u32::MAX] {
        assert_eq!(
            plan(|options| options.mtu = Some(bad)).unwrap_err(),
            PlanError::Mtu { mtu: bad }
        );
    }
}

#[test]
fn an_ipv6_address_needs_1280() {
    let with_mtu = |mtu| {
        plan(|options| {
            options.addresses.push("fd00::1/64".parse().unwrap());
            options.mtu = Some(mtu);
        })
    };
    assert!(with_mtu(1280).is_ok());
    assert!(matches!(with_mtu(1279).unwrap_err(), PlanError::MtuIpv6 { .. }));
}

#[test]
fn the_default_mtu_fits_the_path() {
    let over_v4 = plan(|_| {}).unwrap();
    assert_eq!(over_v4.mtu_for_path(Some(1500)), Ok(1472));
    assert_eq!(over_v4.mtu_for_path(None), Ok(1472));
    assert_eq!(over_v4.mtu_for_path(Some(65_536)), Ok(MTU_MAX));
    assert_eq!(over_v4.mtu_for_path(Some(10)), Ok(MTU_MIN));
    let over_v6 = plan(|options| {
        options.listen = vec![Listen::Port(51820)];
        options.peer = "[2001:db8::2]:51820".parse().unwrap();
    })
    .unwrap();
    assert_eq!(over_v6.mtu_for_path(Some(1500)), Ok(1452));
    let given = plan(|options| options.mtu = Some(1400)).unwrap();
    assert_eq!(given.mtu_for_path(Some(9000)), Ok(1400));
}

#[test]
fn a_narrow_path_and_an_inner_ipv6_address_do_not_fit() {
    let plan = plan(|options| options.addresses.push("fd00::1/64".parse().unwrap())).unwrap();
    assert_eq!(plan.mtu_for_path(Some(1308)), Ok(1280));
    let error = plan.mtu_for_path(Some(1307)).unwrap_err();
    assert!(error.to_string().contains("--mtu"), "{error}");
}

#[test]
fn workers_stay_within_the_cores() {
    let cpus = |workers| plan(|options| options.workers = workers).map(|plan| plan.cpus);
    assert_eq!(cpus(Workers::Count(2)), Ok(vec![None; 2]));
    assert_eq!(cpus(Workers::Count(1)), Ok(vec![None]));
    assert_eq!(cpus(Workers::Cores(vec![5, 0])), Ok(vec![Some(5), Some(0)]));
    assert!(cpus(Workers::Count(4)).unwrap_err().to_string().contains("at most 3"));
    assert!(cpus(Workers::Cores(vec![2])).unwrap_err().to_string().contains("core 2"));
}

#[test]
fn auto_stops_at_eight() {
    let many: Vec<usize> = (0..64).collect();
    assert_eq!(Plan::new(options(), &many).unwrap().cpus.len(), 8);
}

#[test]
fn there_is_always_a_core() {
    assert!(!usable_cores().is_empty());
}
