"""Handlers with resources, for the tools of the desk."""

PROGRAM = """
from coprocess import App, Post, Pre

app = App()

@app.resource
def db():
    yield f"db of {app.config.get('url')}"

@app.resource
async def client(db):
    yield f"client of {db}"

@Pre
def stamp(request, db):
    request.headers["X-Db"] = db

@Post
async def late(request, client):
    request.headers["X-Client"] = client
"""
