// Messages as JSON texts.
#include "phases/tune/messages.h"

#include <stdexcept>

#include "base/error.h"
#include "io/json_fields.h"

namespace roundtable {
namespace {

constexpr const char* kTag = "type";

template <class Message>
Message message_from(const std::string& text, const char* reader) {
  const auto object = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  std::string problem = "a message of an unknown kind";
  try {
    if (std::optional<Message> message = read_tagged<Message>(object, kTag, "message")) return *std::move(message);
  } catch (const Error& error) {
    problem = error.what();
  }
  throw std::logic_error(fmt::format("internal error: {} cannot read {}: {}", reader, problem, text.substr(0, 200)));
}

}  // namespace

std::string to_text(const ToCoordinator& message) { return tagged_json(message, kTag).dump(); }
std::string to_text(const ToWorker& message) { return tagged_json(message, kTag).dump(); }

ToCoordinator to_coordinator_from(const std::string& text) {
  return message_from<ToCoordinator>(text, "the coordinator");
}
ToWorker to_worker_from(const std::string& text) { return message_from<ToWorker>(text, "a worker"); }

void tell_coordinator(Mailbox& mailbox, const ToCoordinator& message) {
  mailbox.send(0, MailTo::kCoordinator, to_text(message));
}

void tell_worker(Mailbox& mailbox, int worker, const ToWorker& message) {
  mailbox.send(worker, MailTo::kWorker, to_text(message));
}

void tell_to_leave(Mailbox& mailbox, int worker) {
  mailbox.send(worker, MailTo::kWorkerAtWork,
               tagged_json(std::variant<message::LeaveNow>(message::LeaveNow{}), kTag).dump());
}

bool was_told_to_leave(Mailbox& mailbox) {
  const std::optional<Mail> mail = mailbox.look(MailTo::kWorkerAtWork);
  if (mail) message_from<std::variant<message::LeaveNow>>(mail->text, "a worker at work");
  return mail.has_value();
}

}  // namespace roundtable
