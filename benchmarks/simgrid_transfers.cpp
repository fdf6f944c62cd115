// Rounds of state transfer between two hosts in SimGrid, and live migrations.
//
//   simgrid_transfers rounds|migrations COUNT STATE_BYTES BANDWIDTH_BYTES_PER_S DELAY_S INTERVAL_S
//
// rounds: every INTERVAL_S the primary sends its state, and waits for the secondary's answer.
// migrations: a busy guest goes to the other host, or back, by SimGrid's own plugin: all of its
// memory, which is STATE_BYTES, then what it dirtied meanwhile, then the rest while it stands.
// Prints how many were done, seconds of CPU time, simulated seconds, and SimGrid's version.

#include <simgrid/plugins/live_migration.h>
#include <simgrid/s4u.hpp>
#include <simgrid/version.h>

#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <string>

namespace sg = simgrid::s4u;

namespace {

constexpr unsigned kMessageBytes = 64; // a message of its own: headers

struct Transfers {
  long count;
  double state_bytes;
  double bandwidth;
  double interval_s;
  long done = 0;
};

int token = 0;

void rounds(Transfers& transfers, const sg::Engine& engine)
{
  auto* state  = sg::Mailbox::by_name("state");
  auto* answer = sg::Mailbox::by_name("answer");
  sg::Actor::create("primary", engine.host_by_name("a"), [&transfers, state, answer] {
    for (long i = 0; i < transfers.count; i++) {
      sg::this_actor::sleep_for(transfers.interval_s);
      state->put(&token, static_cast<uint64_t>(transfers.state_bytes));
      answer->get<int>();
      transfers.done++;
    }
  });
  sg::Actor::create("secondary", engine.host_by_name("b"), [&transfers, state, answer] {
    for (long i = 0; i < transfers.count; i++) {
      state->get<int>();
      answer->put(&token, kMessageBytes);
    }
  });
}

void migrations(Transfers& transfers, const sg::Engine& engine)
{
  sg_vm_live_migration_plugin_init();
  sg::Actor::create("mover", engine.host_by_name("a"), [&transfers, &engine] {
    sg::Host* places[] = {engine.host_by_name("a"), engine.host_by_name("b")};
    auto* vm           = places[0]->create_vm("vm", 1, static_cast<size_t>(transfers.state_bytes));
    sg_vm_set_migration_speed(vm, transfers.bandwidth);
    sg_vm_set_dirty_page_intensity(vm, 0.3); // of what the link takes away
    sg_vm_set_working_set_memory(vm, static_cast<sg_size_t>(transfers.state_bytes));
    vm->start();
    auto guest = sg::Actor::create("guest", vm, [] { sg::this_actor::execute(1e18); });
    for (long i = 0; i < transfers.count; i++) {
      sg::this_actor::sleep_for(transfers.interval_s);
      sg_vm_migrate(vm, places[(i + 1) % 2]);
      transfers.done++;
    }
    guest->kill();
    vm->destroy();
  });
}

} // namespace

int main(int argc, char* argv[])
{
  sg::Engine engine(&argc, argv);
  if (argc != 7) {
    std::fprintf(stderr, "usage: rounds|migrations COUNT STATE_BYTES BANDWIDTH DELAY_S INTERVAL_S\n");
    return 2;
  }
  const std::string mode = argv[1];
  Transfers transfers{std::atol(argv[2]), std::atof(argv[3]), std::atof(argv[4]), std::atof(argv[6])};
  auto* zone = sg::create_full_zone("world");
  auto* a    = zone->create_host("a", 1e9)->seal();
  auto* b    = zone->create_host("b", 1e9)->seal();
  auto* link = zone->create_link("link", std::atof(argv[4]))->set_latency(std::atof(argv[5]))->seal();
  zone->add_route(a->get_netpoint(), b->get_netpoint(), nullptr, nullptr, {sg::LinkInRoute(link)});
  zone->seal();
  (mode == "rounds" ? rounds : migrations)(transfers, engine);

  const std::clock_t start = std::clock();
  engine.run();
  const double spent_s = static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
  int major, minor, patch;
  sg_version_get(&major, &minor, &patch);
  std::printf("%ld %.9f %.9f %d.%d.%d\n", transfers.done, spent_s, sg::Engine::get_clock(), major,
              minor, patch);
  return transfers.done == transfers.count ? 0 : 1;
}
