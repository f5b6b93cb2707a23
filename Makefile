# `make demo` shows the main job, `make test` passes all tests. Both do their own
# set-up: packages by tests/prepare, the kernel of the VM by tests/vm/run.

BINDIR ?= /opt/cni/bin
# Manual pages and completions of shells are below its share.
PREFIX ?= /usr/local
PROGRAMS := eni-cni eni-sync
PACKAGES := $(addprefix -p ,$(PROGRAMS))
# What eni-cni is, by the name that it is called as.
PLUGINS := host-device host-local ipvlan
# Under these names nobody else installs plugins.
OWN_NAMES := $(addprefix eni-,$(PLUGINS))
# Each plugin as a program of its own, which is not installed.
PLUGIN_PACKAGES := $(addprefix -p ,host-device host-local-ipam ipvlan)

# For which machines programs are built and published: amd64 or arm64. By default programs are built
# for this machine, and published for all.
ifneq ($(origin ARCH),undefined)
PUBLISHED := $(ARCH)
endif
MACHINE_amd64 := x86_64
MACHINE_arm64 := aarch64

HOST := $(shell rustc -vV | sed -n 's/^host: //p')
TARGET := $(abspath $(or $(CARGO_TARGET_DIR),target))/$(HOST)
RELEASE := $(TARGET)/release
# What is tested: the plugins as they are installed, and eni-sync without optimisation,
# because an optimised AWS SDK takes three times as long to build.
SUITE := $(TARGET)/suite
MEASURED := $(TARGET)/measured
export CNI_PATH := $(SUITE)

HOST_ARCH := $(if $(filter aarch64-%,$(HOST)),arm64,amd64)
ARCH ?= $(HOST_ARCH)
PUBLISHED ?= $(HOST_ARCH) $(filter-out $(HOST_ARCH),arm64)
ifeq ($(MACHINE_$(ARCH)),)
$(error ARCH=$(ARCH): there is amd64 and arm64)
endif
ifeq ($(ARCH),$(HOST_ARCH))
CARGO := cargo
else
CARGO := deploy/cross $(ARCH) cargo
endif
# Where the programs for each of these architectures are built.
released = $(foreach arch,$(1),$(if $(filter $(HOST_ARCH),$(arch)),$(RELEASE),$(dir $(TARGET))$(MACHINE_$(arch))-unknown-linux-gnu/release))
BUILT := $(call released,$(ARCH))

# The same source gives the same bytes wherever it is built: no path of this machine is in
# them.
REMAPPED := --remap-path-prefix=$(or $(CARGO_HOME),$(HOME)/.cargo)=/cargo
comma := ,
space := $(subst ,, )
RELEASED := --release --locked \
	--config 'target."cfg(all())".rustflags=["$(subst $(space),"$(comma)",$(strip $(REMAPPED)))"]'

# A kernel that can create ipvlan interfaces, for a user who may, needs no VM.
NATIVE := $(shell unshare --net sh -c 'ip link add name eth1 type dummy && ip link add link eth1 name pod type ipvlan' \
	2>/dev/null && echo yes)

.PHONY: all build suite suite-arm64 demo say-how-long lab test test-units test-alone test-fuzz fuzz test-host test-vm test-pod test-arm64 test-reboot test-upgrade \
	conformance faults soak stories bench bench-vpc bench-nodes lint docs docs-check dist dist-check image install install-from fresh-machine clean

all: build

build:
	$(CARGO) build $(RELEASED) $(PACKAGES)

suite:
	tests/prepare
	cargo build $(RELEASED) -p eni-cni
	cargo build --locked -p eni-sync
	install -d $(SUITE)
	ln -f $(RELEASE)/eni-cni $(TARGET)/debug/eni-sync $(SUITE)
	for name in $(PLUGINS); do ln -f $(RELEASE)/eni-cni $(SUITE)/$$name || exit 1; done

# The plugins for arm64 as they are installed. Each name is the whole program.
suite-arm64:
	deploy/cross arm64 cargo build $(RELEASED) -p eni-cni
	install -d $(SUITE)/arm64
	for name in eni-cni $(PLUGINS); do \
		ln -f $(dir $(TARGET))aarch64-unknown-linux-gnu/release/eni-cni $(SUITE)/arm64/$$name || exit 1; \
	done

demo: say-how-long suite
	tests/prepare
	cargo build --locked -p demo
ifeq ($(NATIVE),yes)
	$(TIMED) $(TARGET)/debug/demo across ipvlan
	$(TIMED) tests/vm/run -- $(TARGET)/debug/demo host-device
else
	$(TIMED) tests/vm/run -- $(TARGET)/debug/demo across ipvlan host-device
endif

say-how-long:
	@echo "This builds the programs, which takes minutes the first time, and then shows pods for about three minutes."

# On a terminal the demo says how far it is.
TIMED = if [ -t 1 ]; then export DEMO_BEGUN=$$(date +%s); fi;

# A shell on a node of a simulated VPC that carries packets, as root.
lab: suite
	tests/prepare
	cargo build --locked -p eni-lab
	$(TARGET)/debug/eni-lab shell

test: suite test-units test-alone test-fuzz test-host test-vm test-reboot

# Algorithms, beside the code, and the tests that need nothing. eni-sync is built for itself, as in
# `suite`, because other features of its dependencies would mean another build of the AWS SDK.
test-units:
	cargo test --locked $(PLUGIN_PACKAGES) -p common --lib --bins
	cargo test --locked -p eni-sync
	suite=$$(tests/suite-path unprivileged) && cd tests && $$suite

# The plugins as programs of their own, which execute each other.
test-alone: suite
	tests/prepare tests
	cargo build --locked $(PLUGIN_PACKAGES)
	suite=$$(tests/suite-path host) && cd tests && CNI_PATH=$(TARGET)/debug $$suite \
		protocol:: delegation:: kernel_calls::

# What reads the input of others, given what was found for it before, and two seconds each
# of something new. `make fuzz` takes ten minutes each, or ARGS: SECONDS [TARGET...].
test-fuzz:
	tests/prepare tests
	tests/fuzz/run 2

fuzz:
	tests/prepare tests
	tests/fuzz/run $(or $(ARGS),600)

# The binaries, in namespaces of this machine. Half of the time a test waits for the kernel or
# for a deadline.
test-host: suite suite-arm64
	tests/prepare tests
	suite=$$(tests/suite-path host) && cd tests && $$suite --test-threads=$$((3 * $$(nproc)))

# The binaries, on a kernel with ipvlan and with PCI devices.
test-vm: suite
	tests/prepare tests
	$(MAKE) --no-print-directory $(SUITE)/image/index.json
	VM_DEADLINE=4500 tests/vm/run -- tests/vm/suite "$$(tests/suite-path vm)"

# The pod of the DaemonSet as containerd runs it, with its update and its end.
test-pod: suite
	tests/prepare tests
	$(MAKE) --no-print-directory $(SUITE)/image/index.json
	VM_DEADLINE=4500 tests/vm/run -- "$$(tests/suite-path vm)" machine::runtimes::daemon_set --test-threads=1

# The image of the programs that are tested, without what only a debugger reads. It is made anew
# when one of them is another.
$(SUITE)/image/index.json: $(addprefix $(SUITE)/,$(PROGRAMS)) deploy/dist deploy/image deploy/Dockerfile
	rm -rf $(SUITE)/stripped $(SUITE)/published
	install -D -s -t $(SUITE)/stripped $(addprefix $(SUITE)/,$(PROGRAMS))
	deploy/dist $(SUITE)/published $(PROGRAMS) -- $(SUITE)/stripped
	deploy/image $(SUITE)/image $(SUITE)/published/eni-cni-*.tar.gz

# The plugins for arm64 are examined by the conformance suite, on a kernel for arm64. Where the
# processor is another one, it is emulated, and may be too slow for 200 pods at once: what says so is
# repeated. ARGS are those of tests/conformance.
test-arm64: suite-arm64
	tests/prepare arm64
	deploy/cross arm64 cargo build --locked -p conformance
	CNI_PATH=$(SUITE)/arm64 VM_MACHINE=aarch64 VM_DEADLINE=3600 tests/vm/run -- \
		$(dir $(TARGET))aarch64-unknown-linux-gnu/debug/conformance $(addprefix --plugin ,$(PLUGINS)) \
		--card enp0s6 --repeat 5 $(ARGS)

# The binaries before and after a power cut: each of these tests starts the VM twice.
test-reboot: suite
	tests/prepare tests
	suite=$$(tests/suite-path reboot) && cd tests && $$suite

# From an earlier version of the programs to this one and back, while pods run. ARGS is a commit or
# a tag; without it, tests/earlier chooses one. It is built into the cache, and its dependencies too,
# unless this version has the same. A clone without history cannot do this.
test-upgrade: suite
	tests/prepare tests
	suite=$$(tests/suite-path upgrade) && EARLIER=$$(tests/earlier $(ARGS)) && export EARLIER && \
		$(if $(NATIVE),,tests/vm/run --) $$suite --test-threads=1

# eni-sync on two nodes, told as random sequences of what pods, operators, machines and EC2 do,
# for as many stories as ARGS says. ENI_SYNC_SEED=7 repeats one.
stories: suite
	tests/prepare tests
	suite=$$(tests/suite-path host) && cd tests && \
		ENI_SYNC_SEEDS=$(or $(ARGS),300) $$suite eni_sync::property --nocapture

# The plugins in CNI_PATH, where the command line sets it, else ours beside Go's; ARGS are those
# of tests/conformance.
CONFORMANCE := $(TARGET)/debug/conformance
ifeq ($(origin CNI_PATH),command line)
conformance:
	tests/prepare
	cargo build --locked -p conformance
	$(if $(NATIVE),,tests/vm/run --) $(CONFORMANCE) $(ARGS)
else
conformance: suite
	tests/prepare
	cargo build --locked -p conformance
	tests/conformance/compare $(CONFORMANCE) $(SUITE) $(ARGS)
endif

# The plugins beside Go's plugins; ARGS are those of bench. An eni-sync that is optimised
# is measured where there is one, and the plugins as programs of their own as well.
bench: suite
	tests/prepare bench
	cargo build $(RELEASED) $(PLUGIN_PACKAGES)
	cargo build --release --locked -p bench --bin bench --bin empty --bin peak
	install -d $(MEASURED)/alone
	ln -f $(addprefix $(SUITE)/,eni-cni $(PLUGINS)) $(firstword $(wildcard $(RELEASE)/eni-sync) $(SUITE)/eni-sync) $(MEASURED)
	ln -f $(addprefix $(RELEASE)/,$(PLUGINS)) $(MEASURED)/alone
	CNI_PATH=$(MEASURED) $(RELEASE)/bench $(ARGS)

# eni-sync beside the programs that it replaces; ARGS are those of vpc-bench.
bench-vpc: suite
	tests/prepare
	cargo build --locked -p bench --bin vpc-bench
	$(TARGET)/debug/vpc-bench $(ARGS)

# What agents make of many nodes that start together, what pools make of it, and how 200 nodes
# attach their ENIs.
bench-nodes: suite
	tests/prepare
	cargo build --locked -p bench --bin throttle-bench --bin pool-bench --bin attach-bench
	$(TARGET)/debug/throttle-bench --agent $(ARGS)
	$(TARGET)/debug/throttle-bench --agent --choose $(ARGS)
	$(TARGET)/debug/throttle-bench --agent --choose --prefixes $(ARGS)
	$(TARGET)/debug/throttle-bench $(ARGS)
	$(TARGET)/debug/pool-bench
	$(TARGET)/debug/attach-bench

# What the plugins survive, and what Go's do, as a table; ARGS are those of fault-table.
faults: suite
	tests/prepare
	cargo build --locked -p soak --bin fault-table
	$(TARGET)/debug/fault-table $(ARGS)
	VM_DEADLINE=21600 tests/vm/run -- $(TARGET)/debug/fault-table --ipvlan $(ARGS)

# Thousands of cycles of ADD and DEL with processes that are killed, and what has grown.
soak: suite
	tests/prepare
	cargo build --locked -p soak --bin soak
	$(TARGET)/debug/soak host-local 4000
	$(TARGET)/debug/soak host-device 5000
	$(TARGET)/debug/soak eni-sync 1000
	VM_DEADLINE=21600 tests/vm/run -- $(TARGET)/debug/soak ipvlan 500

lint:
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets --features tests/root -- -D warnings
	cargo fmt --manifest-path tests/fuzz/Cargo.toml --check
	RUSTFLAGS="--cfg fuzzing" cargo clippy --locked --manifest-path tests/fuzz/Cargo.toml \
		--target-dir $(dir $(TARGET))fuzz --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --document-private-items
	tests/deny

# The documents as a site that can be searched: target/book/README.html. Its links are checked.
docs:
	docs/book.py "$$(tests/tool mdbook 0.5.4 --no-default-features --features search)" \
		$(dir $(TARGET))book

# Whether its pages fit a desktop and a telephone, and the search finds answers; PICTURES is a
# directory for pictures of them.
docs-check: docs
	tests/prepare tests
	docs/look $(dir $(TARGET))book $(PICTURES)

install: build
	$(MAKE) --no-print-directory install-from FROM=$(BUILT)
	deploy/manual $(DESTDIR)$(PREFIX)/share $(if $(filter $(HOST_ARCH),$(ARCH)),,qemu-$(MACHINE_$(ARCH))-static) $(BUILT)/eni-sync

# What is published: an archive for each architecture, what the programs in it are made of, and sums.
DIST ?= dist
dist:
	for arch in $(PUBLISHED); do $(MAKE) --no-print-directory build ARCH=$$arch || exit 1; done
	deploy/dist $(DIST) $(PROGRAMS) -- $(call released,$(PUBLISHED))

# The image, without Docker: an OCI image layout of the archives that are in DIST.
image: dist
	deploy/image $(DIST)/image $(DIST)/eni-cni-*.tar.gz

# Whether everybody gets these bytes. Of eni-sync with CRATES=eni-sync, in 20 minutes.
CRATES ?= eni-cni
dist-check:
	deploy/reproducible $(CRATES)

# A plugin may be executed at any moment, so each one is replaced by a rename. The names that
# only this suite has are names of one file. Each of those that others install as well has a file
# of its own: what somebody writes into one changes no other.
install-from:
	install -d $(DESTDIR)$(BINDIR)
	cd $(DESTDIR)$(BINDIR) && for name in $(PROGRAMS) $(OWN_NAMES) $(PLUGINS); do \
		case " $(OWN_NAMES) $(PLUGINS) " in \
			*" eni-$$name "*) install -m 0755 $(abspath $(FROM))/eni-cni .$$name.new ;; \
			*" $$name "*) ln -f eni-cni .$$name.new ;; \
			*) install -m 0755 $(abspath $(FROM))/$$name .$$name.new ;; \
		esac && mv -f .$$name.new $$name || exit 1; \
	done

# Both commands of the README in a new Debian with make, git and the Rust of rustup.
fresh-machine:
	tests/prepare fresh-machine
	tests/fresh-machine bash -c 'time make demo && time make test'

clean:
	cargo clean
