"""The frame's own fragments: the bar of what runs now, and what the finder found."""

from django.http import HttpResponse
from django.shortcuts import render

from playground import frame
from playground.views.request import Request, team_of


def bar(request: Request) -> HttpResponse:
    return render(request, "playground/bar.html")


def find(request: Request) -> HttpResponse:
    found = frame.find(team_of(request), request.user, request.GET.get("q", ""))
    return render(request, "playground/finder.html#found", {"found": found})
