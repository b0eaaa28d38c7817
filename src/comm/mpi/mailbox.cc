// Mail over MPI point-to-point messages.
#include "comm/mpi/mailbox.h"

#include <chrono>
#include <thread>
#include <utility>

#include "base/activity.h"

namespace roundtable {

std::optional<Mail> take_mail(const MpiCommunicator& comm, int tag) {
  MPI_Message message;
  MPI_Status status;
  int found = 0;
  // Matched probe: two threads of rank 0 probe the same communicator.
  check_mpi(MPI_Improbe(MPI_ANY_SOURCE, tag, comm.native(), &found, &message, &status), "MPI_Improbe");
  if (!found) return {};
  int size = 0;
  check_mpi(MPI_Get_count(&status, MPI_CHAR, &size), "MPI_Get_count");
  Mail mail{status.MPI_SOURCE, std::string(static_cast<std::size_t>(size), '\0')};
  check_mpi(MPI_Mrecv(mail.text.data(), size, MPI_CHAR, &message, MPI_STATUS_IGNORE), "MPI_Mrecv");
  return mail;
}

void Mailbox::send(int destination, MailTo to, const std::string& text) {
  const WaitsForOthers waits("MPI_Send");  // a long text leaves only when the other side takes it
  check_mpi(MPI_Send(text.data(), static_cast<int>(text.size()), MPI_CHAR, destination, static_cast<int>(to),
                     comm_->native()),
            "MPI_Send");
}

Mail Mailbox::receive(MailTo to) {
  const WaitsForOthers waits("a message");
  while (true) {
    if (std::optional<Mail> mail = look(to)) return std::move(*mail);
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

std::optional<Mail> Mailbox::look(MailTo to) { return take_mail(*comm_, static_cast<int>(to)); }

}  // namespace roundtable
