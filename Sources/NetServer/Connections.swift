import NIOCore
import Synchronization

/// Counts connections, of all and of each address, and knows those that live. Thread-safe; a class because it is shared.
final class Connections: Sendable {
  private struct State {
    var living: [Int: ConnectionHandler] = [:]
    var sites: [[UInt8]: Int] = [:]
    var last = 0
    var isDraining = false
  }

  private let state = Mutex(State())

  var count: Int { state.withLock { $0.living.count } }

  /// Takes a connection in, and returns its number; nil if it is one too many.
  func enter(_ handler: ConnectionHandler, from site: [UInt8], limits: NetworkLimits) -> Int? {
    state.withLock { state in
      guard !state.isDraining, state.living.count < limits.connections,
        state.sites[site, default: 0] < limits.connectionsPerAddress
      else { return nil }
      state.last += 1
      state.living[state.last] = handler
      state.sites[site, default: 0] += 1
      return state.last
    }
  }

  func leave(_ number: Int, from site: [UInt8]) {
    state.withLock { state in
      guard state.living.removeValue(forKey: number) != nil else { return }
      let left = state.sites[site, default: 1] - 1
      state.sites[site] = left == 0 ? nil : left
    }
  }

  /// Admits no more, and gives out those that live.
  func drain() -> [ConnectionHandler] {
    state.withLock { state in
      state.isDraining = true
      return Array(state.living.values)
    }
  }
}
