import BorgFormat
import REST
import Synchronization

/// Who is behind a request.
struct Visitor: Sendable {
  /// Nil for those who need no name.
  let user: String?
  let grant: Configuration.Grant
}

/// Where a request comes from.
struct Origin: Sendable {
  /// For logs: a numeric address, or `unix`.
  var address: String
  /// What failures and connections are counted by.
  var site: [UInt8]
  /// Whether metrics are for everybody who can connect here.
  var showsMetrics: Bool
  /// Whether the peer is a proxy whose headers are believed.
  var isProxy: Bool
}

/// What of the configuration may change while the server runs. A class, so that handing it out costs nothing.
final class Settings: Sendable {
  let configuration: Configuration
  let hasCredentials: Bool

  init(_ configuration: Configuration) {
    self.configuration = configuration
    hasCredentials = configuration.credentials != nil
  }
}

/// Decides who a request is from, whether it is admitted, and what it is about. Thread-safe, never blocks.
final class Front: Sendable {
  let credentials = Credentials()
  private let settings: Mutex<Settings>

  init(_ configuration: Configuration) {
    settings = Mutex(Settings(configuration))
    credentials.limit(failures: configuration.limits.failures, within: configuration.limits.failureTime)
  }

  var current: Settings { settings.withLock { $0 } }

  func change(to configuration: Configuration) {
    settings.withLock { $0 = Settings(configuration) }
    credentials.limit(failures: configuration.limits.failures, within: configuration.limits.failureTime)
  }

  /// What is to be done with a request.
  enum Decision: Sendable {
    case repository(RepositoryName, rest: String, Visitor)
    case page(Operation, Visitor)
    /// Who it is has to be found out by a hash first.
    case check(BasicCredentials)
    case refused(Answer, user: String?, reason: String)
  }

  /// `known` is what a check has come to for this request, or was found for the same credentials on this connection.
  func decide(_ head: NetworkHead, from origin: Origin, known: (BasicCredentials, Credentials.Verdict)? = nil)
    -> Decision
  {
    let settings = current
    let page = Self.page(head.request)
    if page == nil, head.request.value("accept") != Self.protocolType {
      // As with the original, before anything is said about users.
      return .refused(
        Answer(406, text: "unsupported or missing Accept header: \(Self.protocolType) is needed"), user: nil,
        reason: "no client of this protocol")
    }
    if let page, origin.showsMetrics {
      return .page(page, Visitor(user: nil, grant: Configuration.Grant(repositories: [], metrics: true)))
    }
    switch identify(head, origin, settings, known) {
    case .failure(let decision): return decision.decision
    case .success(let visitor):
      if let page { return admit(visitor, to: page, settings) }
      for pattern in visitor.grant.repositories {
        if let (name, rest) = pattern.split(head.request.path) {
          return .repository(name, rest: rest, visitor)
        }
      }
      // The same whether anything is there or not. Who has a name may still give it.
      if visitor.user == nil, settings.hasCredentials { return Self.unauthorized(nil, "no user was given") }
      return .refused(
        Answer(403, text: "not permitted: nothing is granted here"), user: visitor.user, reason: "not granted"
      )
    }
  }

  static let protocolType = "application/vnd.x.borgstore.rest.v1"

  private static func page(_ request: RequestHead) -> Operation? {
    guard request.method == .get || request.method == .head else { return nil }
    switch request.path {
    case "/metrics": return .metrics
    case "/healthz": return .health
    default: return nil
    }
  }

  private func admit(_ visitor: Visitor, to page: Operation, _ settings: Settings) -> Decision {
    if visitor.grant.metrics { return .page(page, visitor) }
    if visitor.user == nil, settings.hasCredentials { return Self.unauthorized(nil, "no user was given") }
    return .refused(
      Answer(403, text: "not permitted: nothing is granted here"), user: visitor.user, reason: "not granted")
  }

  // MARK: Who it is

  private struct Refused: Error {
    let decision: Decision
  }

  private func identify(
    _ head: NetworkHead, _ origin: Origin, _ settings: Settings,
    _ known: (BasicCredentials, Credentials.Verdict)?
  ) -> Result<Visitor, Refused> {
    let configuration = settings.configuration
    if origin.isProxy, let field = configuration.proxy.userHeader, let user = head.request.value(field),
      !user.isEmpty
    {
      guard let grant = configuration.users[user] else {
        return .failure(
          Refused(
            decision: .refused(
              Answer(403, text: "not permitted: nothing is granted here"), user: user,
              reason: "user of the proxy is not known")))
      }
      return .success(Visitor(user: user, grant: grant))
    }
    guard settings.hasCredentials, let authorization = head.authorization else {
      if let grant = configuration.anonymous { return .success(Visitor(user: nil, grant: grant)) }
      return .failure(Refused(decision: Self.unauthorized(nil, "no user was given")))
    }
    guard let given = BasicCredentials(authorization) else {
      return .failure(Refused(decision: Self.unauthorized(nil, "the credentials are none")))
    }
    let verdict: Credentials.Verdict
    if let known, known.0 == given {
      verdict = known.1
    } else {
      verdict = credentials.look(given, from: origin.site)
    }
    switch verdict {
    case .right:
      let grant = configuration.users[given.user] ?? Configuration.Grant(repositories: [])
      return .success(Visitor(user: given.user, grant: grant))
    case .wrong: return .failure(Refused(decision: Self.unauthorized(given.user, "wrong user or password")))
    case .unknown: return .failure(Refused(decision: .check(given)))
    case .throttled(let seconds):
      let answer = Answer(
        429, text: "too many failed attempts", fields: [("Retry-After", String(seconds))])
      return .failure(
        Refused(decision: .refused(answer, user: given.user, reason: "too many failed attempts")))
    }
  }

  private static func unauthorized(_ user: String?, _ reason: String) -> Decision {
    // Word for word the original's.
    let answer = Answer(
      status: 401, fields: [("WWW-Authenticate", "Basic realm=\"BorgStore REST Server\"")],
      body: .bytes(Array("Unauthorized".utf8)))
    return .refused(answer, user: user, reason: reason)
  }

  /// The client's address as a trusted proxy tells it: the last one of a list is the one that it has added itself.
  func address(of head: NetworkHead, from origin: Origin) -> Origin {
    guard origin.isProxy, let field = current.configuration.proxy.addressHeader,
      let last = head.request.value(field)?.split(separator: ",").last?.trimmed,
      let address = NetworkAddress(String(last))
    else { return origin }
    var origin = origin
    (origin.address, origin.site) = (String(last), address.site)
    return origin
  }
}
