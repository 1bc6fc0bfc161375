import BorgFormat
import ContentHash
import Storage

/// What one client may do: what the table says, and in Borg's own modes what keeps a repository whole beyond that.
///
/// Beside `Session`'s `Policy` and `WriteRules`, not among them: those speak of namespaces and of objects that Borg's older
/// repositories have, these of paths and letters, which that dialect does not know.
struct Access: Sendable {
  let table: PermissionTable
  /// Whether only what Borg stores may be stored, since the client is not trusted with everything.
  let guardsRepository: Bool

  init(_ mode: Permissions) {
    table = PermissionTable(mode)
    guardsRepository = mode == .noDelete || mode == .writeOnly || mode == .readOnly
  }

  init(_ table: PermissionTable) {
    (self.table, guardsRepository) = (table, false)
  }

  /// Throws unless one of the letters is granted.
  func require(_ letters: PermissionTable.Letters, at path: StorePath, to verb: String) throws(Refusal) {
    try require(letters, at: path.text, to: verb)
  }

  /// The same for a name that is not known to the last letter yet.
  func require(_ letters: PermissionTable.Letters, at name: String, to verb: String) throws(Refusal) {
    guard table.letters(at: name).isDisjoint(with: letters) else { return }
    throw Refusal(403, "not permitted: to \(verb) \(name.isEmpty ? "the store" : name)")
  }

  // MARK: Storing

  /// What is known of an object before it is stored.
  struct Candidate {
    let path: StorePath
    let content: ObjectContent
    let size: Int
    /// The content's hashes, by whatever algorithms were asked for.
    let digests: [ContentDigest]
  }

  /// Which hashes of an object's content are needed to tell whether it may be stored.
  func algorithms(for path: StorePath) -> [HashAlgorithm] {
    guard guardsRepository, case .hashed = BorgName(path) else { return [] }
    return HashAlgorithm.allCases
  }

  /// What can be said before an object's content is known. Throws unless the client may store something there.
  func admitStore(_ path: StorePath, replacing: Bool = false) throws(Refusal) {
    try require(
      replacing ? .overwrite : [.create, .overwrite], at: path, to: replacing ? "overwrite" : "store")
    if guardsRepository, BorgName(path) == nil {
      throw Refusal(403, "not permitted: to store \(path.text), which is no name of Borg's")
    }
  }

  /// Stores an object, or finds that it is there. Throws if it may not be; what was sent is then given up.
  func store(_ candidate: Candidate, in store: any PathStore) throws(Refusal) {
    do {
      try decide(candidate, store)
    } catch {
      candidate.content.abandon()
      throw error
    }
  }

  private func decide(_ candidate: Candidate, _ store: any PathStore) throws(Refusal) {
    let path = candidate.path
    try admitStore(path)
    let overwrites = table.letters(at: path.text).contains(.overwrite)
    guard guardsRepository || !overwrites else { return try put(candidate, in: store, keepsOther: false) }
    let isThere = try Refusal.naming { () throws(ServeError) in try store.entry(path) } != nil
    if guardsRepository, let name = BorgName(path) {
      try admit(candidate, as: name)
      if isThere, try storeAgain(candidate, name, store) { return }
    }
    if isThere { try require(.overwrite, at: path, to: "overwrite") }
    try put(candidate, in: store, keepsOther: !overwrites)
  }

  private func put(_ candidate: Candidate, in store: any PathStore, keepsOther: Bool) throws(Refusal) {
    try Refusal.naming { () throws(ServeError) in
      try store.store(candidate.path, candidate.content, keepsOther: keepsOther)
    }
  }

  /// Throws for content that the name does not allow.
  private func admit(_ candidate: Candidate, as name: BorgName) throws(Refusal) {
    switch name {
    case .hashed(let digest) where !candidate.digests.contains(digest):
      throw Refusal(
        422, "\(candidate.path.text) is not stored: its content does not have the hash in its name")
    case .archive where candidate.size != 0:
      throw Refusal(422, "\(candidate.path.text) is not stored: the entry of an archive is empty")
    case .hashed, .archive, .identity, .setting, .cache: break
    }
  }

  /// Stores what a client may store however often, since it can only be the same: clients that have lost the connection
  /// repeat their last request. False where the table decides.
  private func storeAgain(_ candidate: Candidate, _ name: BorgName, _ store: any PathStore) throws(Refusal)
    -> Bool
  {
    switch name {
    case .setting, .cache: return false
    case .hashed where try adopt(candidate, in: store): candidate.content.abandon()
    // What is there is not what its name says: it is mended.
    case .hashed, .archive: try put(candidate, in: store, keepsOther: false)
    case .identity:
      guard try isThere(candidate, in: store) else {
        throw Refusal(403, "not permitted: to change \(candidate.path.text)")
      }
      try put(candidate, in: store, keepsOther: false)
    }
    return true
  }

  /// Whether what is there has the same bytes; it is then as durable as if it was stored now.
  private func adopt(_ candidate: Candidate, in store: any PathStore) throws(Refusal) -> Bool {
    guard try isThere(candidate, in: store) else { return false }
    return try Refusal.naming { () throws(ServeError) in
      guard try store.adopt(candidate.path) else { return false }
      if candidate.path.durability == .immediate { try store.barrier(durable: true) }
      return true
    }
  }

  private func isThere(_ candidate: Candidate, in store: any PathStore) throws(Refusal) -> Bool {
    try Refusal.naming { () throws(ServeError) in
      guard let object = try store.open(candidate.path), object.size == candidate.size else { return false }
      return try object.hasContent(of: candidate.content)
    }
  }
}

extension StoredObject {
  /// Whether this has the same bytes, block by block.
  fileprivate func hasContent(of content: ObjectContent) throws(ServeError) -> Bool {
    var offset = 0
    var isSame = true
    var buffer: [UInt8] = []
    try content.read { (piece) throws(ServeError) in
      guard isSame else { return }
      if buffer.count != piece.count { buffer = [UInt8](repeating: 0, count: piece.count) }
      guard try read(at: offset, into: &buffer) == piece.count else {
        isSame = false
        return
      }
      offset += piece.count
      for index in piece.indices where piece[index] != buffer[index] {
        isSame = false
        break
      }
    }
    return isSame
  }
}
