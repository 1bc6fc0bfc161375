public import BorgFormat
import ContentHash
import Storage

/// The operations of borgstore's HTTP dialect upon one place, for one client's permissions. Thread-safe.
///
/// Source: borgstore 0.5.5 to 0.7.0 `server/rest.py`, `backends/posixfs.py`. docs/rest.md says what is answered otherwise.
public struct Service: Sendable {
  public let place: any StorePlace
  let access: Access

  /// A repository of Borg's in one of Borg's modes. Outside of `all` only what Borg stores may be stored.
  public init(place: any StorePlace, permissions: Permissions) {
    (self.place, access) = (place, Access(permissions))
  }

  /// A store of anything, in which a table of the administrator's own decides alone.
  public init(place: any StorePlace, table: PermissionTable) {
    (self.place, access) = (place, Access(table))
  }

  /// Takes a request up. Looks at the disk only for what is to be stored; everything else is done by `Exchange.finish`.
  public func begin(_ head: RequestHead) -> any Exchange {
    if case .other(let method) = head.method {
      return ShortExchange { _ in Answer(Refusal(501, "there is no method \(method.shortened)")) }
    }
    guard head.value("accept") == RequestHead.protocolType else {
      let refusal = Answer(
        Refusal(406, "unsupported or missing Accept header: \(RequestHead.protocolType) is needed"))
      return ShortExchange { _ in head.method == .head ? refusal.headOnly : refusal }
    }
    switch head.method {
    case .get: return answering { () throws(Refusal) in try get(head) }
    case .head:
      return ShortExchange { _ in
        do throws(Refusal) { return try info(head.name) } catch { return Answer(error).headOnly }
      }
    case .post: return post(head, Query(head.query))
    case .delete: return answering { () throws(Refusal) in try delete(head, Query(head.query)) }
    case .other: return ShortExchange { _ in Answer(Refusal(501, "")) }
    }
  }

  private func post(_ head: RequestHead, _ query: Query) -> any Exchange {
    let name = head.name
    switch query["cmd"] {
    case "create": return answering { () throws(Refusal) in try create() }
    case "move": return answering { () throws(Refusal) in try move(query["current"], to: query["new"]) }
    case "mkdir": return answering { () throws(Refusal) in try makeDirectory(name) }
    case "hash": return answering { () throws(Refusal) in try hash(name, query["algorithm"]) }
    case "quota": return answering { () throws(Refusal) in try quota() }
    case "gather": return answering(Limits.restRanges) { body throws(Refusal) in try gather(body) }
    case "defrag": return answering(Limits.restRanges) { body throws(Refusal) in try defrag(body, query) }
    default: break
    }
    let target = Result { () throws(Refusal) in
      guard !name.isEmpty else { throw Refusal(400, "a name, or a known cmd, is missing") }
      let store = try store()
      let path = try Self.path(name)
      try access.admitStore(path)
      return StoreExchange.Target(store: store, path: path)
    }
    // An empty field is none.
    let expected = head.value("x-content-hash-sha256").flatMap { $0.isEmpty ? nil : $0 }
    return StoreExchange(target, size: head.contentLength, expectedHash: expected, access: access)
  }

  private func answering(_ work: @escaping () throws(Refusal) -> Answer) -> any Exchange {
    ShortExchange { _ in
      do throws(Refusal) { return try work() } catch { return Answer(error) }
    }
  }

  private func answering(_ limit: Int, _ work: @escaping ([UInt8]) throws(Refusal) -> Answer) -> any Exchange
  {
    ShortExchange(limit: limit) { body in
      do throws(Refusal) { return try work(body) } catch { return Answer(error) }
    }
  }

  // MARK: Parts

  func store() throws(Refusal) -> any PathStore {
    try Refusal.naming { () throws(ServeError) in try place.store() }
  }

  /// A client's name; empty for the root.
  static func path(_ name: String) throws(Refusal) -> StorePath {
    try Refusal.naming { () throws(ServeError) in try StorePath(parsing: name) }
  }

  /// A client's name of an object.
  static func objectPath(_ name: String) throws(Refusal) -> StorePath {
    guard !name.isEmpty else { throw Refusal(400, "a name is missing") }
    return try path(name)
  }

  static func missing(_ path: StorePath) -> Refusal { Refusal(404, path.text) }

  static func isDirectory(_ path: StorePath) -> Refusal {
    Refusal(409, "this is a directory: \(path.text)")
  }

  /// What a path leads to; nil also where a component on the way is an object.
  static func entry(_ path: StorePath, in store: any PathStore) throws(Refusal) -> StoreEntry? {
    do {
      return try store.entry(path)
    } catch  where error.isBelowObject {
      return nil
    } catch {
      throw Refusal(error)
    }
  }
}
