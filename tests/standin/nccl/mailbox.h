// Messages between the ranks of one machine, as files: a message is there whole or not at all.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

namespace roundtable::standin {

class Mailbox {
 public:
  // All ranks name one folder; the first one makes it.
  explicit Mailbox(std::string folder);

  void put(const std::string& name, const void* data, std::size_t bytes);
  std::optional<std::vector<char>> find(const std::string& name) const;  // null: not there yet
  void remove(const std::string& name);
  void remove_all();

 private:
  std::string path(const std::string& name) const { return folder_ + "/" + name; }

  std::string folder_;
};

}  // namespace roundtable::standin
