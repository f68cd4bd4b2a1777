#pragma once
// What each peer knows of this node, against what this node knows of itself: the numbers that prove whose place it may take.
//
// Used by node_attach and node_adopt. C++ regime, as the owner, inside an Spi level. Asks over the network with short
// connections and changes nothing there; no lock that anybody waits for may be held meanwhile.

#include "sql_api/spi.hpp"

namespace seal_sync::sql_api {

struct Standing {
  std::string peer;
  bool answered = false;
  std::string why_not; // of a peer that did not answer

  bool heard = false;     // it has a row for this node
  int64 issued = 0;       // newest generation it has given out
  bool welcome = false;   // it would take what this node presents, by the generation's rule (apply/hello.cpp)
  bool connected = false; // another copy of this node speaks to it now
  bool knows_batch = false; // it holds no batch of this node, or one that this node knows to have sent
  bool resends = true;    // it can send again what this node lacks of it
  std::string numbers;    // a sentence that tells them
  std::string contradiction; // why it will never take this node for who it says, empty: it may
};

/// Of every peer, in their order.
std::vector<Standing> standings();

} // namespace seal_sync::sql_api
