// Faults from outside: a library for LD_PRELOAD that makes the n-th call of a function fail, hang, throw or dawdle on
// one rank.
//
//   ROUNDTABLE_FAULT=RANK:CALL:N:ACTION[:PATH]
//     RANK    of Open MPI's world; * for every rank
//     CALL    write (with its kin pwrite, pwritev, writev), read (and pread), fsync, lock (flock, and fcntl's F_OFD_SETLK),
//             thread (pthread_create), or an MPI call that is listed below
//     N       the first is 1; the calls after it are let through, with + behind N they meet the same
//     ACTION  EIO, ENOSPC, ENOLCK, EAGAIN, hang, throw, slow (does what it should, after kSlow)
//     PATH    only files whose name holds this text
//   ROUNDTABLE_CLOCK=SECONDS   CLOCK_REALTIME is off by so much
//
// Where the fault is injected, a line is appended to the file ROUNDTABLE_FAULT_LOG.
#include <dlfcn.h>
#include <fcntl.h>
#include <mpi.h>
#include <pthread.h>
#include <sys/file.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

constexpr useconds_t kSlow = 50000;  // microseconds

struct Fault {
  std::string call;
  long n = 0;
  bool lasting = false;
  std::string action;
  std::string path;
};

Fault read_fault() {
  const char* text = std::getenv("ROUNDTABLE_FAULT");
  const char* rank = std::getenv("OMPI_COMM_WORLD_RANK");
  if (text == nullptr) return {};
  std::vector<std::string> parts;
  std::stringstream stream(text);
  for (std::string part; std::getline(stream, part, ':');) parts.push_back(part);
  if (parts.size() < 4) std::abort();
  if (parts[0] != "*" && parts[0] != (rank == nullptr ? "0" : rank)) return {};
  return {parts[1], std::atol(parts[2].c_str()), parts[2].back() == '+', parts[3], parts.size() > 4 ? parts[4] : ""};
}

const Fault& fault() {
  static const Fault value = read_fault();
  return value;
}

bool names(int fd, const std::string& part) {
  if (part.empty()) return true;
  char link[64], path[4096];
  std::snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  const ssize_t length = readlink(link, path, sizeof path - 1);
  return length > 0 && std::string(path, static_cast<std::size_t>(length)).find(part) != std::string::npos;
}

template <class Function>
Function next(const char* name) {
  return reinterpret_cast<Function>(dlsym(RTLD_NEXT, name));
}

void log_injection() {
  const char* path = std::getenv("ROUNDTABLE_FAULT_LOG");
  if (path == nullptr) return;
  const int fd = open(path, O_WRONLY | O_CREAT | O_APPEND, 0644);
  const std::string line = "injected " + fault().action + " into " + fault().call + "\n";
  static const auto real = next<ssize_t (*)(int, const void*, size_t)>("write");
  real(fd, line.data(), line.size());
  close(fd);
}

// Whether this call is to fail; a hang does not return, a throw leaves, and one that is slow does not fail.
bool strikes(const char* call, int fd = -1) {
  static std::atomic<long> count{0};
  const Fault& f = fault();
  if (f.call != call || (fd >= 0 && !names(fd, f.path))) return false;
  const long now = ++count;
  if (f.lasting ? now < f.n : now != f.n) return false;
  log_injection();
  if (f.action == "hang") {
    while (true) sleep(1000);
  }
  if (f.action == "throw") throw std::runtime_error("an injected exception");
  if (f.action == "slow") {
    usleep(kSlow);
    return false;
  }
  errno = f.action == "ENOSPC" ? ENOSPC : f.action == "ENOLCK" ? ENOLCK : f.action == "EAGAIN" ? EAGAIN : EIO;
  return true;
}

}  // namespace

#define FORWARD(name, ...) next<decltype(&::name)>(#name)(__VA_ARGS__)

extern "C" {

ssize_t write(int fd, const void* data, size_t bytes) { return strikes("write", fd) ? -1 : FORWARD(write, fd, data, bytes); }
ssize_t pwrite(int fd, const void* data, size_t bytes, off_t at) {
  return strikes("write", fd) ? -1 : FORWARD(pwrite, fd, data, bytes, at);
}
ssize_t pwrite64(int fd, const void* data, size_t bytes, off64_t at) {
  return strikes("write", fd) ? -1 : FORWARD(pwrite64, fd, data, bytes, at);
}
ssize_t writev(int fd, const iovec* pieces, int n) { return strikes("write", fd) ? -1 : FORWARD(writev, fd, pieces, n); }
ssize_t pwritev(int fd, const iovec* pieces, int n, off_t at) {
  return strikes("write", fd) ? -1 : FORWARD(pwritev, fd, pieces, n, at);
}
ssize_t pwritev64(int fd, const iovec* pieces, int n, off64_t at) {
  return strikes("write", fd) ? -1 : FORWARD(pwritev64, fd, pieces, n, at);
}
ssize_t read(int fd, void* data, size_t bytes) { return strikes("read", fd) ? -1 : FORWARD(read, fd, data, bytes); }
ssize_t pread(int fd, void* data, size_t bytes, off_t at) {
  return strikes("read", fd) ? -1 : FORWARD(pread, fd, data, bytes, at);
}
ssize_t pread64(int fd, void* data, size_t bytes, off64_t at) {
  return strikes("read", fd) ? -1 : FORWARD(pread64, fd, data, bytes, at);
}
int flock(int fd, int operation) { return strikes("lock", fd) ? -1 : FORWARD(flock, fd, operation); }
// Both names: which of them a file calls depends on its size of off_t. The third argument is a word in every use.
int fcntl64(int fd, int command, ...) {
  va_list rest;
  va_start(rest, command);
  void* argument = va_arg(rest, void*);
  va_end(rest);
  return command == F_OFD_SETLK && strikes("lock", fd) ? -1 : FORWARD(fcntl64, fd, command, argument);
}
int fcntl(int fd, int command, ...) {
  va_list rest;
  va_start(rest, command);
  void* argument = va_arg(rest, void*);
  va_end(rest);
  return command == F_OFD_SETLK && strikes("lock", fd) ? -1 : FORWARD(fcntl, fd, command, argument);
}
int pthread_create(pthread_t* thread, const pthread_attr_t* attributes, void* (*work)(void*), void* argument) noexcept {
  return strikes("thread") ? errno : FORWARD(pthread_create, thread, attributes, work, argument);
}
int fsync(int fd) { return strikes("fsync", fd) ? -1 : FORWARD(fsync, fd); }

int clock_gettime(clockid_t clock, timespec* time) noexcept {
  const int result = FORWARD(clock_gettime, clock, time);
  const char* off = std::getenv("ROUNDTABLE_CLOCK");
  if (result == 0 && clock == CLOCK_REALTIME && off != nullptr) time->tv_sec += std::atol(off);
  return result;
}

int MPI_Iallreduce(const void* from, void* to, int count, MPI_Datatype type, MPI_Op op, MPI_Comm comm, MPI_Request* request) {
  if (strikes("MPI_Iallreduce")) return MPI_ERR_OTHER;
  return PMPI_Iallreduce(from, to, count, type, op, comm, request);
}

int MPI_Ibcast(void* data, int count, MPI_Datatype type, int root, MPI_Comm comm, MPI_Request* request) {
  if (strikes("MPI_Ibcast")) return MPI_ERR_OTHER;
  return PMPI_Ibcast(data, count, type, root, comm, request);
}

}  // extern "C"
