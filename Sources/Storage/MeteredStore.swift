public import BorgFormat
import Disk

/// A store that holds what is stored against limits, and counts it.
///
/// Several ledgers may count the same bytes: the repository's, and that of a directory above for all of a user's. Objects of
/// the same name that are stored at once may be counted once too often, until the next count.
public final class MeteredStore<Base: ObjectStore & PathStore>: ObjectStore, PathStore {
  private let base: Base
  private let limits: [UsageLimit]

  /// Takes the ledgers over: they are closed with the store.
  public init(_ base: Base, limits: [UsageLimit]) { (self.base, self.limits) = (base, limits) }

  /// The tightest limit and what is used of it; nil if nothing is limited.
  public func quota() throws(ServeError) -> (limit: UInt64, usage: UInt64)? {
    var tightest: (limit: UInt64, usage: UInt64)?
    for limit in limits {
      let usage = try limit.ledger.usage()
      let room = limit.bytes - min(usage, limit.bytes)
      if tightest.map({ room < $0.limit - min($0.usage, $0.limit) }) ?? true {
        tightest = (limit.bytes, usage)
      }
    }
    return tightest
  }

  // MARK: Counting

  /// Reserves what is stored beyond what it replaces, in all ledgers or in none, and gives it back if it fails.
  ///
  /// Locks are counted and never refused: without them clients can neither restore nor make room. What backups consist of
  /// leaves some room to what deletions and compactions have to write.
  private func storing(
    _ content: ObjectContent, at path: StorePath, replacing old: Int?, _ body: () throws(ServeError) -> Void
  ) throws(ServeError) {
    let (new, replaced) = (UInt64(try content.size), UInt64(old ?? 0))
    let growth = new - min(new, replaced)
    let isSmallLock = path.durability == .fleeting && new <= UInt64(Limits.lockRecord)
    var reserved: [UsageLimit] = []
    do {
      for limit in limits {
        let bytes = isSmallLock ? .max : limit.bytes
        try limit.ledger.reserve(growth, limit: bytes, keeping: path.durability == .staged, always: isSmallLock)
        reserved.append(limit)
      }
      try body()
    } catch {
      for limit in reserved { try? limit.ledger.settle(releasing: growth) }
      throw error
    }
    for limit in limits { try limit.ledger.settle(releasing: replaced - min(new, replaced)) }
  }

  private func removing(_ size: Int?, _ body: () throws(ServeError) -> Bool) throws(ServeError) -> Bool {
    let isGone = try body()
    if isGone, let size {
      for limit in limits { try limit.ledger.release(UInt64(size)) }
    }
    return isGone
  }

  /// The size of the object that has a path, if one has.
  private func size(_ path: StorePath) throws(ServeError) -> Int? {
    guard let entry = try base.entry(path), !entry.isDirectory else { return nil }
    return entry.size
  }

  // MARK: What counts

  public func store(_ name: StoreName, _ content: ObjectContent, keepsOther: Bool) throws(ServeError) {
    let path = StorePath(name, dataLevels: base.dataLevels)
    try storing(content, at: path, replacing: try base.info(name)) { () throws(ServeError) in
      try base.store(name, content, keepsOther: keepsOther)
    }
  }

  public func store(_ path: StorePath, _ content: ObjectContent, keepsOther: Bool) throws(ServeError) {
    try storing(content, at: path, replacing: try size(path)) { () throws(ServeError) in
      try base.store(path, content, keepsOther: keepsOther)
    }
  }

  public func delete(_ name: StoreName) throws(ServeError) -> Bool {
    try removing(try base.info(name)) { () throws(ServeError) in try base.delete(name) }
  }

  public func remove(_ path: StorePath) throws(ServeError) -> Bool {
    try removing(try size(path)) { () throws(ServeError) in try base.remove(path) }
  }

  public func move(_ name: StoreName, to newName: StoreName) throws(ServeError) -> Bool {
    try removing(name == newName ? nil : try base.info(newName)) { () throws(ServeError) in
      try base.move(name, to: newName)
    }
  }

  public func move(_ path: StorePath, to newPath: StorePath) throws(ServeError) -> Bool {
    try removing(path == newPath ? nil : try size(newPath)) { () throws(ServeError) in
      try base.move(path, to: newPath)
    }
  }

  public func close() throws(ServeError) {
    defer {
      for limit in limits {
        // Most sessions are shorter than it takes to come to it otherwise.
        if (try? limit.ledger.needsRecount()) == true { try? limit.ledger.recount() }
        try? limit.ledger.close()
      }
    }
    try base.close()
  }

  public func destroy() throws(ServeError) -> [String] {
    let foreign = try base.destroy()
    // The repository's own is gone with it; those above go on without what was here.
    for limit in limits where limit.isAbove {
      try? limit.ledger.recount()
      try? limit.ledger.close()
    }
    return foreign
  }

  public func tick() {
    base.tick()
    for limit in limits where (try? limit.ledger.needsRecount()) == true { try? limit.ledger.recount() }
  }

  // MARK: What does not

  public var label: String { base.label }
  public var dataLevels: Int { base.dataLevels }
  public func info(_ name: StoreName) throws(ServeError) -> Int? { try base.info(name) }
  public func open(_ name: StoreName) throws(ServeError) -> (any StoredObject)? { try base.open(name) }
  public func open(_ path: StorePath) throws(ServeError) -> (any StoredObject)? { try base.open(path) }
  public func upload() throws(ServeError) -> any Upload { try base.upload() }
  public func upload(for path: StorePath) throws(ServeError) -> any Upload { try base.upload(for: path) }
  public func adopt(_ name: StoreName) throws(ServeError) -> Bool { try base.adopt(name) }
  public func adopt(_ path: StorePath) throws(ServeError) -> Bool { try base.adopt(path) }
  public func entry(_ path: StorePath) throws(ServeError) -> StoreEntry? { try base.entry(path) }
  public func entries(in directory: StorePath) throws(ServeError) -> [StoreEntry]? {
    try base.entries(in: directory)
  }
  public func makeDirectory(_ path: StorePath) throws(ServeError) { try base.makeDirectory(path) }
  public func removeDirectory(_ path: StorePath) throws(ServeError) -> Bool { try base.removeDirectory(path) }
  public func list(_ directory: String, deleted: Bool) throws(ServeError) -> [ListedObject]? {
    try base.list(directory, deleted: deleted)
  }
  public func objects(after marker: ObjectID?, limit: Int, foreign: (String) -> Void)
    throws(ServeError) -> [ListedID]?
  {
    try base.objects(after: marker, limit: limit, foreign: foreign)
  }
  public func barrier(durable: Bool) throws(ServeError) { try base.barrier(durable: durable) }
  public func availableSpace() -> UInt64? {
    let left = limits.compactMap { limit in
      (try? (limit.ledger.usage(), limit.effective)).map { use, bytes in bytes - min(use, bytes) }
    }
    return ([base.availableSpace()].compactMap { $0 } + left).min()
  }
}

/// How much a ledger may come to, for one session.
public struct UsageLimit: Sendable {
  public let ledger: UsageLedger
  public let bytes: UInt64
  /// Whether it counts more than one repository, and outlives it.
  public let isAbove: Bool

  public init(_ ledger: UsageLedger, bytes: UInt64, isAbove: Bool = false) {
    (self.ledger, self.bytes, self.isAbove) = (ledger, bytes, isAbove)
  }

  /// This limit, or a tighter one that the ledger keeps itself.
  var effective: UInt64 {
    get throws(ServeError) {
      let kept = try ledger.limit()
      return kept > 0 ? min(kept, bytes) : bytes
    }
  }
}

extension ObjectContent {
  /// Bytes.
  var size: Int {
    get throws(ServeError) {
      switch self {
      case .bytes(_, let range): range.count
      case .upload(let upload): try upload.content().size
      }
    }
  }
}
