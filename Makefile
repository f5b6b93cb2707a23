build:
	cargo build --release -p host-local-ipam -p ipvlan -p host-device
