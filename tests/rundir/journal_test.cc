// The journal: records survive, a torn tail is cut off, damage and a second holder are refused.
#include "rundir/journal.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>

#include "base/error.h"
#include "tests/io/temporary_folder.h"
#include "tests/io/throws_error.h"

namespace roundtable {
namespace {

class JournalFile : public ::testing::Test {
 protected:
  void write(int records) {
    Journal journal(path_);
    for (int i = 0; i < records; ++i) journal.append(record::Boundary{i, 1});
  }

  TemporaryFolder folder_;
  std::string path_ = folder_.path() + "/journal";
};

TEST_F(JournalFile, RecordsComeBackInOrder) {
  write(3);
  const Journal journal(path_);
  ASSERT_EQ(journal.records().size(), 3u);
  EXPECT_EQ(std::get<record::Boundary>(journal.records()[1]).block, 1);
  EXPECT_EQ(journal.last<record::Boundary>()->block, 2);
  EXPECT_EQ(journal.last<record::Run>(), nullptr);
}

TEST_F(JournalFile, ATornTailIsCutOffAtEveryByte) {
  write(2);
  const std::string whole = content_of(path_);
  write(1);  // appends a third record
  const std::string longer = content_of(path_);
  for (std::size_t cut = whole.size(); cut < longer.size(); ++cut) {
    folder_.put("journal", longer.substr(0, cut));
    {
      Journal journal(path_);
      ASSERT_EQ(journal.records().size(), 2u) << cut;
      journal.append(record::Assembled{});
    }
    ASSERT_EQ(Journal(path_).records().size(), 3u) << cut;
  }
}

TEST_F(JournalFile, AFileOfSomebodyElseIsKept) {
  for (const char* text : {"x", "Monday", "Monday: rain", "Monday: it rained all day long"}) {
    folder_.put("journal", text);
    EXPECT_BAD_INPUT(Journal{path_}, ::testing::HasSubstr("choose another run"));
    EXPECT_EQ(content_of(path_), text);
  }
  // A first record that is torn behind its sizes is ours.
  folder_.put("journal", "");
  write(1);
  folder_.put("journal", content_of(path_).substr(0, 9));
  EXPECT_TRUE(Journal(path_).records().empty());
  EXPECT_EQ(content_of(path_), "");
}

TEST_F(JournalFile, AFlippedByteIsRefused) {
  write(3);
  const std::string whole = content_of(path_);
  for (std::size_t i = 0; i < whole.size(); ++i) {
    std::string broken = whole;
    broken[i] = static_cast<char>(broken[i] ^ 0x10);
    folder_.put("journal", broken);
    try {
      const Journal journal(path_);
      ADD_FAILURE() << "byte " << i << " was taken";
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), ::testing::HasSubstr(path_));
    }
    EXPECT_EQ(content_of(path_), broken) << "nothing is cut off a damaged journal";
  }
}

TEST_F(JournalFile, AFileThatIsRefusedIsClosed) {
  std::ofstream(path_) << std::string(100, 'x');
  EXPECT_THROW(Journal{path_}, Error);
  EXPECT_FALSE(journal_is_held(path_));  // the lock goes with the file
}

TEST_F(JournalFile, ASecondProcessIsRefused) {
  const Journal mine(path_);
  const pid_t child = fork();
  if (child == 0) {
    try {
      const Journal theirs(path_);
      _exit(0);
    } catch (const Error&) {
      _exit(7);
    }
  }
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_EQ(WEXITSTATUS(status), 7);
}

}  // namespace
}  // namespace roundtable
