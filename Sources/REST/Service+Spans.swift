import BorgFormat
import ContentHash
import Storage

/// Operations upon parts of many objects.
extension Service {
  func gather(_ body: [UInt8]) throws(Refusal) -> Answer {
    let pieces = try pieces(body, in: try store())
    return .success(type: "application/octet-stream", .pieces(pieces.list), contentLength: pieces.size)
  }

  /// Copies parts of objects into a new one, block by block, and answers with its name.
  func defrag(_ body: [UInt8], _ query: Query) throws(Refusal) -> Answer {
    let naming = try TargetName(query)
    let store = try store()
    try access.require(.overwrite, at: naming.place, to: "store")
    let pieces = try pieces(body, in: store)
    let arrival = Arrival(
      try Self.objectPath(naming.place), in: store, size: pieces.size,
      hashedBy: access.guardsRepository ? HashAlgorithm.allCases : naming.algorithms)
    let path: StorePath
    do throws(Refusal) {
      for piece in pieces.list { try copy(piece, to: arrival) }
      path = try Self.objectPath(naming.name(arrival.digest))
      if access.guardsRepository, case .hashed = BorgName(path) {
      } else {
        try access.require(.overwrite, at: path, to: "store")
      }
    } catch {
      arrival.abandon()
      throw error
    }
    let digests = HashAlgorithm.allCases.compactMap { arrival.digest(by: $0) }
    try access.store(
      Access.Candidate(path: path, content: arrival.take(), size: arrival.size, digests: digests), in: store)
    return .success(type: "text/plain", .bytes(Array(path.text.utf8)))
  }

  private func copy(_ piece: Answer.Piece, to arrival: Arrival) throws(Refusal) {
    var buffer = [UInt8](repeating: 0, count: min(piece.count, Limits.readBlock))
    var done = 0
    while done < piece.count {
      let wanted = min(piece.count - done, Limits.readBlock)
      if wanted < buffer.count { buffer.removeLast(buffer.count - wanted) }
      let position = piece.offset + done
      let count = try Refusal.naming { () throws(ServeError) in
        let count = try piece.object.read(at: position, into: &buffer)
        try arrival.append(buffer, 0..<count)
        return count
      }
      guard count > 0 else { throw Refusal(416, "an object became shorter while it was read") }
      done += count
    }
  }

  /// The parts that a request names, all of which are there. Those of no bytes are not even looked up.
  private func pieces(_ body: [UInt8], in store: any PathStore) throws(Refusal) -> (
    list: [Answer.Piece], size: Int
  ) {
    let spans = try SpanRequest.list(parsing: body)
    for span in spans { try access.require(.read, at: span.path, to: "read") }
    var sizes: [StorePath: Int] = [:]
    var pieces: [Answer.Piece] = []
    pieces.reserveCapacity(spans.count)
    var total = 0
    for span in spans where span.count > 0 {
      let size = if let known = sizes[span.path] { known } else { try self.size(of: span.path, in: store) }
      sizes[span.path] = size
      let range = try span.bytes(of: size)
      let (sum, overflow) = total.addingReportingOverflow(range.count)
      guard !overflow else { throw Refusal(400, "this is more than can be counted") }
      total = sum
      let object = LateObject(span.path, in: store, size: size, end: range.upperBound)
      pieces.append(Answer.Piece(object: object, offset: range.lowerBound, count: range.count))
    }
    return (pieces, total)
  }

  private func size(of path: StorePath, in store: any PathStore) throws(Refusal) -> Int {
    guard let entry = try Self.entry(path, in: store) else { throw Self.missing(path) }
    guard !entry.isDirectory else { throw Self.isDirectory(path) }
    return entry.size
  }
}

/// How the object that `defrag` makes is to be called.
///
/// Source: borgstore 0.7.0 `backends/_base.py`, `defrag`.
private struct TargetName {
  private let target: String?
  private let algorithm: HashAlgorithm
  private let namespace: String
  private let levels: Int

  init(_ query: Query) throws(Refusal) {
    target = query["target"]
    namespace = String((query["namespace"] ?? "").reversed().drop { $0 == "/" }.reversed())
    let levels = query["levels"] ?? "0"
    guard target == nil else {
      (algorithm, self.levels) = (.sha256, 0)
      return
    }
    guard let name = query["algorithm"] else { throw Refusal(400, "Missing target or algorithm for defrag") }
    guard let algorithm = HashAlgorithm(name: name) else {
      throw Refusal(400, "unknown hash algorithm: \(name.shortened)")
    }
    // More would make names that are too long anyway.
    guard let levels = Int(levels), levels <= Limits.nameLength else {
      throw Refusal(400, "levels is not a number, or too large: \(levels.shortened)")
    }
    (self.algorithm, self.levels) = (algorithm, max(levels, 0))
  }

  var algorithms: [HashAlgorithm] { target == nil ? [algorithm] : [] }

  /// A name that stands for the final one as long as that is not known.
  var place: String { target ?? (namespace.isEmpty ? "" : namespace + "/") + "01234567" }

  func name(_ digest: (HashAlgorithm) -> ContentDigest?) -> String {
    if let target { return target }
    let hex = digest(algorithm)?.hex ?? ""
    var components = namespace.isEmpty ? [] : [namespace]
    var rest = Substring(hex)
    for _ in 0..<levels {
      components.append(String(rest.prefix(2)))
      rest = rest.dropFirst(2)
    }
    return (components + [hex]).joined(separator: "/")
  }
}
