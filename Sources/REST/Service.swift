public import BorgFormat

/// The operations of borgstore's HTTP dialect upon one place, for one client's permissions. Thread-safe.
public struct Service: Sendable {
  public let place: any StorePlace
  public let permissions: Permissions

  public init(place: any StorePlace, permissions: Permissions) {
    (self.place, self.permissions) = (place, permissions)
  }
}
