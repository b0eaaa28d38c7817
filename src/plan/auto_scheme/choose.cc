// A dynamic programme over sums of bits, item after item. auto-round 0.16.1 does the same (auto_scheme/delta_loss.py,
// choose_bits_per_layer_with_path): of the sums that can be reached, those stay than which no other has both fewer bits
// and a smaller loss. Here a bound removes most of them: with a price for each bit (a Lagrange multiplier) every item can
// be decided by itself, and what comes of that is never more than the best choice costs. A sum which even with this bound
// for the items that are left is worse than a choice that is known already cannot be part of the best one.
#include "plan/auto_scheme/choose.h"

#include <algorithm>
#include <cstdint>

#include "base/error.h"

namespace roundtable {
namespace {

using Items = std::vector<std::vector<SchemeCost>>;

double priced(const SchemeCost& cost, double price) { return cost.loss + price * static_cast<double>(cost.bits); }

// What each item decides by itself at this price of a bit.
std::vector<std::size_t> decide_alone(const Items& items, double price) {
  std::vector<std::size_t> choice;
  for (const std::vector<SchemeCost>& costs : items) {
    const auto best = std::min_element(costs.begin(), costs.end(), [&](const SchemeCost& a, const SchemeCost& b) {
      const double of_a = priced(a, price), of_b = priced(b, price);
      return of_a < of_b || (of_a == of_b && a.bits < b.bits);
    });
    choice.push_back(static_cast<std::size_t>(best - costs.begin()));
  }
  return choice;
}

SchemeCost sum_of(const Items& items, const std::vector<std::size_t>& choice) {
  SchemeCost sum;
  for (std::size_t i = 0; i < items.size(); ++i) {
    sum.bits += items[i][choice[i]].bits;
    sum.loss += items[i][choice[i]].loss;
  }
  return sum;
}

// The least price at which the items by themselves stay within the budget, from above. Infinitely dear bits would do.
double price_for(const Items& items, std::int64_t budget) {
  const auto fits = [&](double price) { return sum_of(items, decide_alone(items, price)).bits <= budget; };
  if (fits(0)) return 0;
  double low = 0, high = 1e-30;
  while (!fits(high)) {
    low = high;
    high *= 16;
    if (high > 1e300) return high;
  }
  constexpr int kHalvings = 100;
  for (int i = 0; i < kHalvings; ++i) {
    const double middle = low + (high - low) / 2;
    (fits(middle) ? high : low) = middle;
  }
  return high;
}

// Bits that are left over go to whichever item gains by them. A choice that is within the budget.
std::vector<std::size_t> first_choice(const Items& items, double price, std::int64_t budget) {
  std::vector<std::size_t> choice = decide_alone(items, price);
  std::int64_t left = budget - sum_of(items, choice).bits;
  if (left < 0) {  // losses so large that no price outweighs them
    for (std::size_t i = 0; i < items.size(); ++i) {
      const auto fewest = std::min_element(items[i].begin(), items[i].end(),
                                           [](const SchemeCost& a, const SchemeCost& b) { return a.bits < b.bits; });
      choice[i] = static_cast<std::size_t>(fewest - items[i].begin());
    }
    left = budget - sum_of(items, choice).bits;
  }
  for (std::size_t i = 0; i < items.size(); ++i) {
    for (std::size_t k = 0; k < items[i].size(); ++k) {
      const SchemeCost& now = items[i][choice[i]];
      if (items[i][k].loss >= now.loss || items[i][k].bits - now.bits > left) continue;
      left -= items[i][k].bits - now.bits;
      choice[i] = k;
    }
  }
  return choice;
}

// A sum that can be reached, and how.
struct Sum {
  std::int64_t bits;
  double loss;
  std::uint32_t from;    // place among the sums before the last item
  std::uint32_t choice;  // of the last item
};

// Those that no other one beats, by rising bits and falling losses.
std::vector<Sum> unbeaten(std::vector<Sum> sums) {
  std::stable_sort(sums.begin(), sums.end(), [](const Sum& a, const Sum& b) {
    return a.bits < b.bits || (a.bits == b.bits && a.loss < b.loss);
  });
  std::vector<Sum> kept;
  for (const Sum& sum : sums) {
    if (kept.empty() || sum.loss < kept.back().loss) kept.push_back(sum);
  }
  return kept;
}

}  // namespace

std::vector<std::size_t> choose_within(const Items& items, std::int64_t budget) {
  const double price = price_for(items, budget);
  const std::vector<std::size_t> known = first_choice(items, price, budget);
  RT_CHECK(sum_of(items, known).bits <= budget);
  constexpr double kRounding = 1e-9;  // far more than sums in other orders differ
  const double most = sum_of(items, known).loss * (1 + kRounding);
  std::vector<double> rest(items.size() + 1);            // at least, of items from this one on, at the price
  std::vector<std::int64_t> fewest(items.size() + 1);    // bits of these
  const std::vector<std::size_t> alone = decide_alone(items, price);
  for (std::size_t i = items.size(); i-- > 0;) {
    rest[i] = rest[i + 1] + priced(items[i][alone[i]], price);
    std::int64_t least = items[i].front().bits;
    for (const SchemeCost& cost : items[i]) least = std::min(least, cost.bits);
    fewest[i] = fewest[i + 1] + least;
  }
  std::vector<std::vector<Sum>> reached = {{{0, 0, 0, 0}}};
  for (std::size_t i = 0; i < items.size(); ++i) {
    std::vector<Sum> next;
    for (std::uint32_t from = 0; from < reached[i].size(); ++from) {
      for (std::uint32_t k = 0; k < items[i].size(); ++k) {
        const Sum sum{reached[i][from].bits + items[i][k].bits, reached[i][from].loss + items[i][k].loss, from, k};
        if (sum.bits + fewest[i + 1] > budget) continue;
        const double bound = sum.loss + rest[i + 1] - price * static_cast<double>(budget - sum.bits);
        const double slack = kRounding * (rest[i + 1] + sum.loss);
        if (bound - slack <= most) next.push_back(sum);
      }
    }
    reached.push_back(unbeaten(std::move(next)));
    RT_CHECK(!reached.back().empty());
  }
  std::vector<std::size_t> choice(items.size());
  std::uint32_t place = static_cast<std::uint32_t>(reached.back().size() - 1);
  for (std::size_t i = items.size(); i-- > 0;) {
    const Sum& sum = reached[i + 1][place];
    choice[i] = sum.choice;
    place = sum.from;
  }
  return choice;
}

}  // namespace roundtable
