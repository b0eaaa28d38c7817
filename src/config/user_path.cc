// Expanding `~`, refusing `$`, and tidying slashes.
#include "config/user_path.h"

#include <fmt/format.h>
#include <pwd.h>
#include <unistd.h>

#include <cstdlib>

#include "base/error.h"
#include "base/text.h"

namespace roundtable {
namespace {

// As a shell finds it: HOME, or the user's entry in the system's table.
std::string home_folder(const std::string& place) {
  const char* home = std::getenv("HOME");
  if (home == nullptr || *home == '\0') {
    const passwd* entry = ::getpwuid(::getuid());
    home = entry == nullptr ? nullptr : entry->pw_dir;
  }
  if (home == nullptr || *home == '\0') {
    throw bad_input(place, "~ cannot be expanded, because HOME is not set", "write the whole path");
  }
  return home;
}

std::string without_spare_slashes(std::string_view path) {
  std::string tidy;
  for (const char c : path) {
    if (c != '/' || tidy.empty() || tidy.back() != '/') tidy += c;
  }
  while (tidy.size() > 1 && (tidy.back() == '/' || tidy.ends_with("/."))) tidy.pop_back();
  return tidy;
}

}  // namespace

std::string path_from_user(std::string_view text, const std::string& place) {
  if (text.find('$') != std::string_view::npos) {
    throw bad_input(place, fmt::format("{} holds a $, and variables are not expanded here", shown(text)),
                    "write the whole path, or give it on the command line, where the shell expands variables");
  }
  std::string path(text);
  if (path.starts_with('~')) {
    if (path.size() > 1 && path[1] != '/') {
      throw bad_input(place, fmt::format("{}: only ~ and ~/ are expanded, to your own home folder", shown(text)),
                      "write the whole path, or ./~ for a name that begins so");
    }
    path.replace(0, 1, home_folder(place));
  }
  return without_spare_slashes(path);
}

}  // namespace roundtable
