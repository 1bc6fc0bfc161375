import BorgFormat
import ObjectRepository
import Storage

/// What may be stored in a repository whose client is not trusted with everything: only what a Borg client
/// stores, so that nobody else's backup is led astray by it.
///
/// All of it can be told without the key: names, checksums, and whether what is named is there. What the
/// encrypted bytes mean cannot.
struct WriteRules {
  let repository: ObjectRepository

  /// Clocks of hosts that share a repository may differ by this much.
  private static let clockDifference = 60

  /// Whether the object may be stored. Throws `integrity` for a name that it may have and content that is
  /// none; the upload is then still the caller's.
  func admits(_ name: StoreName, _ content: ObjectContent, size: Int, exists: Bool) throws(ServeError) -> Bool
  {
    guard !name.isDeleted else { return false }
    switch (name.namespace, name.key) {
    case (.data, .id): try verifyObject(name, content)
    case (.archives, .text(let key)): return try admitsArchive(key, size)
    case (.cache, .text(let key)): return try admitsIndex(key, content)
    case (.config, .text(let key)): return try admitsSetting(name, key, content, exists)
    case (.locks, .text(let key)): return try admitsLock(key, content, size)
    case (.keys, _), (_, .id), (.data, .text): return false
    }
    return true
  }

  /// An object has to have a header that fits, and checksums that hold.
  private func verifyObject(_ name: StoreName, _ content: ObjectContent) throws(ServeError) {
    var verifier = ObjectVerifier()
    try content.read { verifier.update($0) }
    guard let finding = verifier.findings().first else { return }
    throw .integrity("\(name.text) is not stored, because it is corrupted: \(finding.text)")
  }

  /// The entry of an archive is empty, and its name is the id of an object that is there.
  private func admitsArchive(_ key: String, _ size: Int) throws(ServeError) -> Bool {
    guard let id = ObjectID(hex: key), size == 0 else { return false }
    guard try repository.exists(StoreName(id: id)) else {
      throw .integrity("archive \(key) is not stored, because its object is missing")
    }
    return true
  }

  /// A chunk index is what its name says, and names nothing that is missing: clients leave out of a backup
  /// what an index names.
  private func admitsIndex(_ key: String, _ content: ObjectContent) throws(ServeError) -> Bool {
    guard key.hasPrefix(RepositoryLayout.chunkIndexPrefix) else { return false }
    var reader = ChunkIndexReader()
    var missing: ObjectID?
    try content.read { (piece) throws(ServeError) in
      var ids: [ObjectID] = []
      do {
        try reader.update(piece) { ids.append($0) }
      } catch {
        throw .integrity("cache/\(key) is not stored, because it is no chunk index")
      }
      for id in ids where missing == nil {
        if try !repository.exists(StoreName(id: id)) { missing = id }
      }
    }
    if let missing {
      throw .integrity("cache/\(key) is not stored, because object \(missing.hex) in it is missing")
    }
    guard (try? reader.finish()) != nil, reader.objectName == key else {
      throw .integrity("cache/\(key) is not stored, because it is not what its name says")
    }
    return true
  }

  /// What makes the repository is written once; the manifest is an object like others.
  private func admitsSetting(_ name: StoreName, _ key: String, _ content: ObjectContent, _ exists: Bool)
    throws(ServeError) -> Bool
  {
    switch name {
    case RepositoryLayout.manifestName:
      try verifyObject(name, content)
      return true
    case RepositoryLayout.idName, RepositoryLayout.versionName, RepositoryLayout.readmeName:
      return false
    default:
      // Fillers that repo-space makes: "space-reserve." and a number.
      guard key.hasPrefix(RepositoryLayout.spaceReservePrefix) else { return false }
      let number = key.utf8.dropFirst(RepositoryLayout.spaceReservePrefix.utf8.count)
      return (1...9).contains(number.count)
        && number.allSatisfy { (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0) }
    }
  }

  /// A lock is a record under its own hash, and not from the future, where it would never go stale.
  private func admitsLock(_ key: String, _ content: ObjectContent, _ size: Int) throws(ServeError) -> Bool {
    guard size <= Limits.lockRecord else { return false }
    var bytes: [UInt8] = []
    try content.read { piece in
      for index in piece.indices { bytes.append(piece[index]) }
    }
    guard let record = try? LockRecord(parsing: bytes.span), XXH64.hex(XXH64.hash(bytes)) == key else {
      return false
    }
    return !record.time.isLater(than: repository.now, byMoreThan: Self.clockDifference)
  }
}
