#include "tests/standin/device/stream.h"

#include <chrono>
#include <thread>

#include "tests/standin/device/checks.h"
#include "tests/standin/device/settings.h"

namespace roundtable::standin {
namespace {

using std::chrono::steady_clock;

// How long work that needs other ranks is tried at once before the host continues without it.
constexpr std::chrono::seconds kPatience{5};

struct Delivery {
  Moment moment;
  const void* place;
  std::function<void()> deliver;
};

struct Streams {
  std::mutex mutex;
  std::vector<std::unique_ptr<Stream>> all;
  std::vector<Stream*> defaults;  // by device
  Clock host;                     // what the host has waited for
  std::vector<Delivery> deliveries;
};

Streams& streams() {
  static auto* made = new Streams;
  return *made;
}

// Whether the stream's first work was done.
bool attempt(Stream& stream) {
  if (!stream.pending.front()()) return false;
  stream.pending.pop_front();
  ++stream.done;
  return true;
}

// Other threads have their turn between two attempts.
bool advance(Lock& lock, Stream& stream, std::uint64_t number, steady_clock::time_point until) {
  while (stream.done < number) {
    if (attempt(stream)) continue;
    if (steady_clock::now() > until) return false;
    lock.unlock();
    std::this_thread::sleep_for(std::chrono::microseconds(100));
    lock.lock();
  }
  return true;
}

void finish(Lock& lock, Stream& stream, std::uint64_t number) {
  advance(lock, stream, number, steady_clock::time_point::max());
}

// Without waiting for anything.
bool try_to_reach(Stream& stream, std::uint64_t number) {
  while (stream.done < number) {
    if (!attempt(stream)) return false;
  }
  return true;
}

void host_waited_for(const Clock& clock) {
  streams().host.join(clock);
  auto& all = streams().deliveries;
  for (std::size_t i = 0; i < all.size();) {
    if (!streams().host.covers(all[i].moment)) {
      ++i;
      continue;
    }
    all[i].deliver();
    all.erase(all.begin() + static_cast<std::ptrdiff_t>(i));
  }
}

Moment check(Stream& stream, const std::vector<Access>& accesses, const std::string& what) {
  stream.clock.join(streams().host);
  const Moment moment = stream.clock.advance(stream.number);
  check_accesses(accesses, stream.clock, moment, what);
  return moment;
}

}  // namespace

Lock lock_streams() { return Lock(streams().mutex); }

Stream* make_stream(const Lock&, int device) {
  auto made = std::make_unique<Stream>();
  made->device = device;
  made->number = static_cast<int>(streams().all.size());
  streams().all.push_back(std::move(made));
  return streams().all.back().get();
}

Stream* default_stream(const Lock& lock, int device) {
  auto& defaults = streams().defaults;
  if (defaults.size() <= static_cast<std::size_t>(device)) defaults.resize(static_cast<std::size_t>(device) + 1);
  Stream*& found = defaults[static_cast<std::size_t>(device)];
  if (found == nullptr) found = make_stream(lock, device);
  return found;
}

void start(Lock& lock, Stream& stream, const std::vector<Access>& accesses, const std::string& what, Work work) {
  check(stream, accesses, what);
  stream.pending.push_back(std::move(work));
  ++stream.started;
  if (!settings().late) advance(lock, stream, stream.started, steady_clock::now() + kPatience);
}

void start_now(Lock& lock, Stream& stream, const std::vector<Access>& accesses, const std::string& what) {
  finish(lock, stream, stream.started);
  check(stream, accesses, what);
  stream.done = ++stream.started;
}

void start_delivery(Lock& lock, Stream& stream, const std::vector<Access>& accesses, const std::string& what,
                    const void* place, std::function<void()> deliver) {
  finish(lock, stream, stream.started);
  const Moment moment = check(stream, accesses, what);
  stream.done = ++stream.started;
  if (settings().late) {
    streams().deliveries.push_back({moment, place, std::move(deliver)});
  } else {
    deliver();
  }
}

void drop_deliveries(const Lock&, const void* place) {
  std::erase_if(streams().deliveries, [place](const Delivery& d) { return d.place == place; });
}

void record(const Lock&, Event& event, Stream& stream) {
  if (event.device != stream.device) fault("an event of one device is recorded in a stream of another");
  event.stream = &stream;
  event.at = stream.started;
  event.clock = stream.clock;
  event.questions = 0;
}

void hold_back(Lock& lock, Stream& stream, const Event& event) {
  if (event.stream == nullptr) fault("a stream waits for an event that was never recorded");
  stream.clock.join(event.clock);
  if (event.stream->done >= event.at) return;
  Stream* const other = event.stream;
  stream.pending.push_back([other, at = event.at] { return try_to_reach(*other, at); });
  ++stream.started;
  if (!settings().late) advance(lock, stream, stream.started, steady_clock::now() + kPatience);
}

bool reached(Lock&, Event& event) {
  constexpr int kQuestionsWithoutProgress = 2;
  if (event.stream == nullptr) return true;
  if (event.stream->done < event.at) {
    if (settings().late && event.questions++ < kQuestionsWithoutProgress) return false;
    if (!try_to_reach(*event.stream, event.at)) return false;
  }
  host_waited_for(event.clock);
  return true;
}

void wait_for(Lock& lock, Stream& stream, std::uint64_t number) {
  ++counts().host_waits;
  const Clock then = stream.clock;
  finish(lock, stream, number);
  host_waited_for(then);
}

void wait_for(Lock& lock, const Event& event) {
  ++counts().host_waits;
  if (event.stream == nullptr) return;
  finish(lock, *event.stream, event.at);
  host_waited_for(event.clock);
}

void wait_for_device(Lock& lock, int device) {
  for (std::size_t i = 0; i < streams().all.size(); ++i) {
    Stream& stream = *streams().all[i];
    if (stream.device == device) wait_for(lock, stream, stream.started);
  }
}

}  // namespace roundtable::standin
