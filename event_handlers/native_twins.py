"""The sample beside this file, in the native style."""

from coprocess import Event


@Event
def on_auth_failure(event: Event) -> None:
    print(f"{event.type} at API {event.api_id}: {event.meta.get('Path')}")
