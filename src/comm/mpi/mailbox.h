// Short texts between single ranks: how workers and the coordinator talk.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "comm/mpi/communicator.h"

namespace roundtable {

// To the coordinator or to a worker: rank 0 is both, and they must not take each other's mail. kWorkerAtWork is for a
// worker that does not wait for mail but looks for it now and then.
enum class MailTo : int { kCoordinator = 1, kWorker = 2, kWorkerAtWork = 3 };

struct Mail {
  int source = 0;
  std::string text;
};

// The next text of any rank with `tag`, if one is there already. Does not wait.
std::optional<Mail> take_mail(const MpiCommunicator& comm, int tag);

// Safe to use from several threads of a rank (MPI_THREAD_MULTIPLE), as long as one thread receives for one MailTo.
class Mailbox {
 public:
  // Collective over `comm`, which it duplicates: its messages never meet others.
  explicit Mailbox(const MpiCommunicator& comm) : comm_(comm.duplicate()) {}

  // Returns when the text is on its way. Texts from one rank to another arrive in order.
  void send(int destination, MailTo to, const std::string& text);
  // Waits, without occupying a core, for the next text of any rank.
  Mail receive(MailTo to);
  // The next text, if one is there already. Does not wait.
  std::optional<Mail> look(MailTo to);

 private:
  std::unique_ptr<MpiCommunicator> comm_;
};

}  // namespace roundtable
