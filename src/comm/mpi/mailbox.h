// Short texts between single ranks: how workers and the coordinator talk.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "comm/mpi/communicator.h"

namespace roundtable {

// To the coordinator or to a worker: rank 0 is both, and the two must not take each other's mail. kWorkerAtWork is for
// a worker that does not wait for mail but looks for it now and then.
enum class MailTo : int { kCoordinator = 1, kWorker = 2, kWorkerAtWork = 3 };

struct Mail {
  int source = 0;
  std::string text;
};

// The next text of any rank with `tag` where one has come already; never waits.
std::optional<Mail> take_mail(const MpiCommunicator& comm, int tag);

// Safe to use from several threads of a rank (MPI_THREAD_MULTIPLE), as long as one thread receives for one MailTo.
class Mailbox {
 public:
  // Collective over `comm`: makes a context of its own.
  explicit Mailbox(const MpiCommunicator& comm) : comm_(comm.duplicate()) {}

  // Returns once the text is on its way; order between two ranks is kept.
  void send(int destination, MailTo to, const std::string& text);
  // Waits, without occupying a core, for the next text of any rank.
  Mail receive(MailTo to);
  // The next text where one has come already.
  std::optional<Mail> look(MailTo to);

 private:
  std::unique_ptr<MpiCommunicator> comm_;
};

}  // namespace roundtable
