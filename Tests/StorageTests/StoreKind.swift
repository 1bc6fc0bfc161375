import BorgFormat
import Disk
import DiskSimulation
import Storage

/// The stores that have to keep the contract.
enum StoreKind: CaseIterable, Sendable {
  case memory
  /// In a directory of this machine.
  case directory
  /// In a directory of this machine, where nothing else is granted.
  case confined
  /// On a simulated disk, synced as a whole.
  case simulated
  /// On a simulated disk where each file has to be synced.
  case simulatedNetwork

  func make(dataLevels: Int = 2) throws -> Opened {
    var options = PosixStore.Options()
    options.dataLevels = dataLevels
    switch self {
    case .memory: return Opened(store: MemoryStore(dataLevels: dataLevels), owner: nil)
    case .directory:
      let directory = try TemporaryDirectory()
      let store = PosixStore(
        root: try directory.open(), label: "test", options: options,
        location: RepositoryLocation(path: directory.path))
      return Opened(store: store, owner: directory)
    case .confined:
      let directory = try TemporaryDirectory()
      guard let location = try GrantedRoots(paths: [directory.path.bytes]).admit(directory.path.bytes) else {
        throw ServeError.pathNotAllowed(directory.path.text)
      }
      let store = PosixStore(root: try location.open(), label: "test", options: options, location: location)
      return Opened(store: store, owner: directory)
    case .simulated, .simulatedNetwork:
      var facts = SimulatedDisk.Options()
      facts.syncsWhole = self == .simulated
      let disk = SimulatedDisk(facts)
      return Opened(store: PosixStore(root: disk.root(), label: "test", options: options), owner: nil)
    }
  }

  /// A store, closed at the end if the test has not; and what has to live as long.
  final class Opened {
    let store: any ObjectStore
    private let owner: TemporaryDirectory?

    init(store: any ObjectStore, owner: TemporaryDirectory?) {
      (self.store, self.owner) = (store, owner)
    }

    deinit { try? store.close() }
  }
}

/// An id that numbers spread over the directories of `data/`.
func id(_ number: Int) -> ObjectID {
  ObjectID(UInt64(number) &* 0x9E37_79B9_7F4A_7C15, 0, 0, UInt64(number))
}

func data(_ number: Int) -> StoreName { StoreName(id: id(number)) }

func named(_ text: String) throws -> StoreName { try StoreName(parsing: text) }

func text(_ string: String) -> ObjectContent { ObjectContent(Array(string.utf8)) }

extension ObjectStore {
  /// A small object as text, or nil.
  func text(_ name: StoreName) throws(ServeError) -> String? {
    try load(name, limit: Limits.smallObject).map { String(decoding: $0, as: UTF8.self) }
  }
}
